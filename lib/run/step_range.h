// Steps in an option's value: FIRST:LAST, both included, or one step.
#pragma once

#include <cstdint>
#include <string>

namespace moe {

struct StepRange {
  std::int64_t first = 1, last = 1;

  static StepRange parse(const std::string& text);  // Error(kUsage) unless 1 <= FIRST <= LAST
  std::string text() const { return std::to_string(first) + ":" + std::to_string(last); }
};

}  // namespace moe
