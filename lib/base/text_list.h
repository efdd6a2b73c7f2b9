// Lists in an option's value: "a,b,c".
#pragma once

#include <string>
#include <vector>

namespace moe {

// The parts between separators, empty ones included: one part more than there are separators.
std::vector<std::string> split_list(const std::string& text, char separator = ',');

}  // namespace moe
