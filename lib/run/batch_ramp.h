// A batch that grows: --batch-ramp FROM:TOKENS[:STEP]. The ramp is cut into equal parts of its sequences, as many as there
// are steps from FROM to --batch; each part has one batch more than the one before. The batch of a step follows from the
// options and the number of the step alone, so that a run that is resumed, on whatever ranks, goes on with the same
// sequences. Not here: how a batch is cut over ranks (global_batch.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

struct TrainOptions;

struct BatchRamp {
  int from = 0;  // sequences of the first step; 0: the batch does not grow
  std::int64_t tokens = 0;
  int step = 0;

  static BatchRamp parse(const std::string& text);  // "": does not grow. Error(kUsage) saying what was expected
  std::string text() const;
  bool grows() const { return from > 0; }
};

// Steps of one size that follow each other.
struct BatchLevel {
  std::int64_t first_step = 0;    // steps before it
  std::int64_t first_sample = 0;  // sequences before it
  int batch = 0;
};
// The last level has no end.
std::vector<BatchLevel> batch_levels(const TrainOptions& options);

int batch_after(const TrainOptions& options, std::int64_t steps_done);  // of the step that comes then
std::int64_t samples_of_steps(const TrainOptions& options, std::int64_t steps);
// Whole steps that take no more than so many sequences.
std::int64_t steps_of_samples(const TrainOptions& options, std::int64_t samples);

}  // namespace moe
