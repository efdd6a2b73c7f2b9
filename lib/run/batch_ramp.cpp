#include "lib/run/batch_ramp.h"

#include <algorithm>
#include <charconv>

#include "lib/base/error.h"
#include "lib/base/text_list.h"
#include "lib/base/value_schedule.h"
#include "lib/run/train_options.h"

namespace moe {
namespace {

[[noreturn]] void refuse(const std::string& text) {
  throw Error(
      Exit::kUsage,
      "expected FROM:TOKENS or FROM:TOKENS:STEP, as 3072:469B:768, of whole numbers of at least 1, found \"" + text + "\"");
}

int whole_number(const std::string& part, const std::string& all) {
  int value = 0;
  const char* const end = part.data() + part.size();
  const auto [stop, error] = std::from_chars(part.data(), end, value);
  if (error != std::errc() || stop != end || value < 1) refuse(all);
  return value;
}

}  // namespace

BatchRamp BatchRamp::parse(const std::string& text) {
  if (text.empty()) return {};
  const std::vector<std::string> parts = split_list(text, ':');
  if (parts.size() < 2 || parts.size() > 3) refuse(text);
  BatchRamp ramp{.from = whole_number(parts[0], text)};
  const RunMark end = RunMark::parse(parts[1]);
  if (!end.in_tokens || end.value < 1 || end.value > 1e18) refuse(text);
  ramp.tokens = static_cast<std::int64_t>(end.value);
  ramp.step = parts.size() > 2 ? whole_number(parts[2], text) : ramp.from;
  return ramp;
}

std::string BatchRamp::text() const {
  if (!grows()) return "";
  const RunMark end{.value = static_cast<double>(tokens), .in_tokens = true};
  return std::to_string(from) + ":" + end.text() + ":" + std::to_string(step);
}

std::vector<BatchLevel> batch_levels(const TrainOptions& o) {
  const BatchRamp& ramp = o.batch_ramp;
  std::vector<BatchLevel> levels = {{.batch = ramp.grows() ? std::min(ramp.from, o.batch) : o.batch}};
  const std::int64_t samples = ramp.grows() ? (ramp.tokens + o.seq - 1) / o.seq : 0;
  const std::int64_t parts = ramp.grows() ? (o.batch - levels[0].batch + ramp.step - 1) / ramp.step : 0;
  for (std::int64_t i = 1; i <= parts; ++i) {
    const BatchLevel& last = levels.back();
    // Of the part before: steps until its sequences are used up. In double, since 10^18 tokens times the parts overflow.
    const auto end =
        static_cast<std::int64_t>(static_cast<double>(samples) * static_cast<double>(i) / static_cast<double>(parts));
    const std::int64_t steps = std::max<std::int64_t>(0, (end - last.first_sample + last.batch - 1) / last.batch);
    const auto batch = static_cast<int>(std::min<std::int64_t>(o.batch, levels[0].batch + i * ramp.step));
    levels.push_back({last.first_step + steps, last.first_sample + steps * last.batch, batch});
  }
  return levels;
}

namespace {

// The last level that begins at or before `n`, by its first step or its first sample.
BatchLevel level_at(const TrainOptions& o, std::int64_t BatchLevel::*first, std::int64_t n) {
  const std::vector<BatchLevel> levels = batch_levels(o);
  return *std::prev(std::upper_bound(levels.begin(), levels.end(), n,
                                     [first](std::int64_t at, const BatchLevel& level) { return at < level.*first; }));
}

}  // namespace

int batch_after(const TrainOptions& o, std::int64_t steps_done) {
  return level_at(o, &BatchLevel::first_step, steps_done).batch;
}

std::int64_t samples_of_steps(const TrainOptions& o, std::int64_t steps) {
  const BatchLevel level = level_at(o, &BatchLevel::first_step, steps);
  return level.first_sample + (steps - level.first_step) * level.batch;
}

std::int64_t steps_of_samples(const TrainOptions& o, std::int64_t samples) {
  const BatchLevel level = level_at(o, &BatchLevel::first_sample, samples);
  return level.first_step + (samples - level.first_sample) / level.batch;
}

}  // namespace moe
