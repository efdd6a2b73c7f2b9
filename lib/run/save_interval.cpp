#include "lib/run/save_interval.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lib/base/error.h"

namespace moe {
namespace {

// The whole text is a number of at least `least`.
bool read_number(const std::string& text, std::int64_t least, std::int64_t& number) {
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stop == end && number >= least;
}

}  // namespace

SaveEvery SaveEvery::parse(const std::string& text) {
  SaveEvery every;
  if (text == "auto") return {true, 0};
  if (!read_number(text, 0, every.steps))
    throw Error(Exit::kUsage, "--save-every: expected a number of steps of at least 0, or auto, found " + text);
  return every;
}

SaveFailPolicy SaveFailPolicy::parse(const std::string& text) {
  std::int64_t limit = 0;
  if (text == "stop") return {1};
  if (!text.starts_with("warn:") || !read_number(text.substr(5), 1, limit) || limit > 1000000)
    throw Error(Exit::kUsage, "--save-fail: expected warn:N with N at least 1, or stop, found " + text);
  return {static_cast<int>(limit)};
}

std::int64_t steps_between_saves(double cost_seconds, double save_seconds, double mtbf_seconds, double step_seconds) {
  const double seconds = std::max(std::sqrt(2 * cost_seconds * mtbf_seconds), 2 * save_seconds);
  return std::max<std::int64_t>(1, std::llround(seconds / std::max(step_seconds, 1e-6)));
}

}  // namespace moe
