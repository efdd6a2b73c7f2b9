// The learning rate of a step.
#pragma once

#include "lib/run/train_options.h"

namespace moe {

// step counts from 1. progress in [0, 1]: the part of the run that is over (by steps or by wall time).
// Linear warm-up over options.warmup steps; then cosine to min_lr, or stable and linear decay to min_lr in the last
// decay_fraction of the run (warm-up-stable-decay), or constant.
double learning_rate(const TrainOptions& options, std::int64_t step, double progress);

// The part of the run that is over after `steps_done` steps and `seconds` of wall time: the larger of both shares.
double run_progress(const TrainOptions& options, std::int64_t steps_done, double seconds);

}  // namespace moe
