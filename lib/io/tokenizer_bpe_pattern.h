// The regular expressions of tokenizer.json are Oniguruma's; they are matched by PCRE2, whose language is nearly the same.
// Not here: matching (tokenizer_bpe_regex.h).
#pragma once

#include <string>

namespace moe {

// The PCRE2 pattern (for UTF) that matches what the Oniguruma pattern does. Constructs whose meaning differs, or that look
// at the text before a match, are Error 65 naming the construct and `where`.
std::string pcre2_of_oniguruma(const std::string& pattern, const std::string& where);

}  // namespace moe
