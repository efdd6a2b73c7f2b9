// Text as Python's str sees it, because that is how lm-evaluation-harness cuts, cleans and measures: in code points, with
// Unicode's white space. Texts are valid UTF-8. Not here: which task does what to which field (eval_tasks_format.h).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace moe {

bool is_utf8(std::string_view text);                // well-formed: no surrogates, no overlong forms
std::size_t num_characters(std::string_view text);  // code points
// Without the white space at both ends, the left or the right.
std::string_view strip(std::string_view text);
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
// First letter upper case, all others lower case; one to one (no final sigma, no SS for a sharp s).
std::string capitalize(std::string_view text);
// HellaSwag's clean-up of WikiHow's marks, in this order: strip; " [title]" becomes ". "; each "[...]" within a line goes;
// each pair of spaces becomes one, once, from the left.
std::string clean_hellaswag(std::string_view text);

}  // namespace moe
