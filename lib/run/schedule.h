// How far a run is, and the learning rate of a step. Everything follows from the options and the number of the step (and,
// under --time-limit, from wall time), so that a resumed run goes on as if it had never stopped.
// Not here: values that change at points of the run (lib/base/value_schedule.h), the batch (batch_ramp.h).
#pragma once

#include "lib/run/train_options.h"

namespace moe {

// The part of the run that is over after `steps_done` steps and `seconds` of wall time: the larger of both shares. The share
// of the steps is that of their tokens.
double run_progress(const TrainOptions& options, std::int64_t steps_done, double seconds);

// Where the run stands before step `step` (from 1), for values that change on the way.
RunPoint run_point(const TrainOptions& options, std::int64_t step, double progress);

// step counts from 1. progress in [0, 1]: the part of the run that is over before it.
// Linear warm-up over options.warmup steps; and from there on cosine to min_lr, or stable and linear decay to min_lr in the
// last decay_fraction of the run (warm-up-stable-decay), or constant. Phases begin with the run; the warm-up multiplies.
// Where wall time alone ends the run, nobody knows which part of it the warm-up is: the cosine then begins with the run.
double learning_rate(const TrainOptions& options, std::int64_t step, double progress);

}  // namespace moe
