#include "lib/base/value_schedule.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lib/base/error.h"
#include "lib/base/number_text.h"
#include "lib/base/text_list.h"

namespace moe {
namespace {

constexpr std::string_view kUnits = "KMBT";

}  // namespace

double number_in(const std::string& text, const std::string& what) {
  double value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end || !std::isfinite(value))
    throw Error(Exit::kUsage, "expected " + what + ", found \"" + text + "\"");
  return value;
}

RunMark RunMark::parse(const std::string& text) {
  const std::string what = "a point of the run, as a fraction in 0 to 1 or in tokens with K, M, B or T";
  const std::size_t unit = text.empty() ? kUnits.npos : kUnits.find(text.back());
  RunMark mark{.in_tokens = unit != kUnits.npos};
  mark.value = number_in(mark.in_tokens ? text.substr(0, text.size() - 1) : text, what);
  if (mark.in_tokens) mark.value = std::round(mark.value * std::pow(1000.0, static_cast<double>(unit + 1)));
  if (mark.value < 0 || (!mark.in_tokens && mark.value > 1))
    throw Error(Exit::kUsage, "expected " + what + ", found " + text);
  return mark;
}

// In the largest unit that leaves no more digits than the tokens have.
std::string RunMark::text() const {
  if (!in_tokens) return number_text(value);
  std::size_t unit = 0;
  double shown = value / 1000;
  for (; shown >= 1000 && unit + 1 < kUnits.size(); ++unit) shown /= 1000;
  return number_text(shown) + kUnits[unit];
}

ValueSchedule ValueSchedule::parse(const std::string& text) {
  const std::string what = "a number, or a list VALUE,VALUE@POINT,...";
  const std::vector<std::string> parts = split_list(text);
  ValueSchedule schedule(static_cast<float>(number_in(parts[0], what)));
  for (std::size_t i = 1; i < parts.size(); ++i) {
    const std::size_t at = parts[i].find('@');
    if (at == std::string::npos) throw Error(Exit::kUsage, "expected " + what + ", found \"" + text + "\"");
    const auto value = static_cast<float>(number_in(parts[i].substr(0, at), what));
    schedule.changes_.push_back({RunMark::parse(parts[i].substr(at + 1)), value});
    const auto& all = schedule.changes_;
    if (i > 1 && all[i - 2].from.in_tokens == all[i - 1].from.in_tokens && all[i - 2].from.value >= all[i - 1].from.value)
      throw Error(Exit::kUsage, "expected points that rise, found \"" + text + "\"");
  }
  return schedule;
}

std::string ValueSchedule::text() const {
  std::string all = number_text(first_);
  for (const Change& c : changes_) all += "," + number_text(c.value) + "@" + c.from.text();
  return all;
}

float ValueSchedule::at(const RunPoint& point) const {
  float value = first_;
  for (const Change& c : changes_)
    if (c.from.reached(point)) value = c.value;
  return value;
}

float ValueSchedule::least() const {
  float least = first_;
  for (const Change& c : changes_) least = std::min(least, c.value);
  return least;
}

float ValueSchedule::most() const {
  float most = first_;
  for (const Change& c : changes_) most = std::max(most, c.value);
  return most;
}

}  // namespace moe
