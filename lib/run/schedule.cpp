#include "lib/run/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moe {
namespace {

double share_of_steps(const TrainOptions& o, std::int64_t steps) {
  if (o.steps <= 0) return 0;
  return static_cast<double>(samples_of_steps(o, steps)) / static_cast<double>(samples_of_steps(o, o.steps));
}

double cosine(const TrainOptions& o, double progress) {
  const double begin = share_of_steps(o, o.warmup);
  if (progress <= begin) return 1;
  return o.min_lr + (1 - o.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * (progress - begin) / (1 - begin)));
}

}  // namespace

double run_progress(const TrainOptions& o, std::int64_t steps_done, double seconds) {
  double progress = share_of_steps(o, steps_done);
  if (o.time_limit > 0) progress = std::max(progress, seconds / o.time_limit);
  return std::min(progress, 1.0);
}

RunPoint run_point(const TrainOptions& o, std::int64_t step, double progress) {
  const auto tokens = [&](std::int64_t steps) { return static_cast<double>(samples_of_steps(o, steps)) * o.seq; };
  return {.fraction = progress, .tokens = tokens(step - 1), .total_tokens = tokens(o.steps)};
}

double learning_rate(const TrainOptions& o, std::int64_t step, double progress) {
  const double warm = o.warmup > 0 ? std::min(1.0, static_cast<double>(step) / o.warmup) : 1.0;
  double factor = 1;
  if (o.schedule == Schedule::kCosine) {
    factor = cosine(o, progress);
  } else if (o.schedule == Schedule::kWsd && progress > 1 - o.decay_fraction) {
    factor = 1 - (1 - o.min_lr) * (progress - (1 - o.decay_fraction)) / o.decay_fraction;
  } else if (o.schedule == Schedule::kPhases) {
    factor = o.lr_phases.factor(run_point(o, step, progress));
  }
  return o.lr * warm * factor;
}

}  // namespace moe
