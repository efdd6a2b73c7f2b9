// What a run trains on and is judged by, and what follows from it: the vocabulary, the number of steps.
#pragma once

#include <optional>

#include "lib/io/tokens.h"
#include "lib/run/train_options.h"

namespace moe {

struct TrainInputs {
  std::optional<TokenSource> data, eval;
};
// Opens both and takes the data's vocabulary if nobody chose one. Error(kUsage) without data, but for a dry run, and for a
// model that cannot be; 66 and 65 for files, also where their vocabulary is larger than the model's.
TrainInputs open_train_inputs(TrainOptions& options);

// --steps, or those of --epochs; 0: neither says.
std::int64_t planned_steps(const TrainOptions& options, std::int64_t samples_per_epoch);

}  // namespace moe
