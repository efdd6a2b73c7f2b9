#include "lib/run/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace moe {

double run_progress(const TrainOptions& o, std::int64_t steps_done, double seconds) {
  double progress = 0;
  if (o.steps > 0) progress = static_cast<double>(steps_done) / static_cast<double>(o.steps);
  if (o.time_limit > 0) progress = std::max(progress, seconds / o.time_limit);
  return std::min(progress, 1.0);
}

double learning_rate(const TrainOptions& o, std::int64_t step, double progress) {
  const double warm = o.warmup > 0 ? std::min(1.0, static_cast<double>(step) / o.warmup) : 1.0;
  double factor = 1;
  if (o.schedule == Schedule::kCosine) {
    factor = o.min_lr + (1 - o.min_lr) * 0.5 * (1 + std::cos(std::numbers::pi * progress));
  } else if (o.schedule == Schedule::kWsd && progress > 1 - o.decay_fraction) {
    factor = 1 - (1 - o.min_lr) * (progress - (1 - o.decay_fraction)) / o.decay_fraction;
  }
  return o.lr * warm * factor;
}

}  // namespace moe
