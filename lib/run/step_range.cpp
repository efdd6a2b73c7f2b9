#include "lib/run/step_range.h"

#include <charconv>

#include "lib/base/error.h"
#include "lib/base/text_list.h"

namespace moe {
namespace {

// 0: not a number of a step.
std::int64_t step_of(const std::string& part) {
  std::int64_t step = 0;
  const char* const end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, step);
  return error == std::errc() && stop == end ? step : 0;
}

}  // namespace

StepRange StepRange::parse(const std::string& text) {
  const std::vector<std::string> parts = split_list(text, ':');
  const StepRange range{step_of(parts.front()), step_of(parts.back())};
  if (parts.size() > 2 || range.first < 1 || range.last < range.first)
    throw Error(Exit::kUsage, "expected FIRST:LAST, as 3:5, of steps from 1 on, found \"" + text + "\"");
  return range;
}

}  // namespace moe
