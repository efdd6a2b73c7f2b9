// moe-eval scaling: the law of loss and compute from what runs of moe-train said (--json), and the loss of a run that was
// not made. Trains nothing; scripts/scaling-ladder trains the runs. Not here: the law (scaling_law.h), the picture.
#pragma once

#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

struct EvalScalingOptions {
  double predict = 0;  // FLOP of the predicted run; 0: as far beyond the largest as that is beyond the one before
  double probability = 0.8;
  std::string svg;
};
void add_eval_scaling_options(Options& options, EvalScalingOptions& scaling);
void check_eval_scaling_options(const Options& options, const EvalScalingOptions& scaling);  // Error(kUsage)

// One run, as its JSON tells.
struct ScalingRun {
  std::string name, path;
  std::int64_t params_total = 0, params_active = 0, tokens = 0;  // active: without the input embedding
  double flop = 0;  // tokens x FLOP per token, forward and backward, causal attention, active parameters
  double loss = 0;  // held out, else of the last training batch
  bool is_held_out = false;
};
// Error 66; 65 for a file that is no result of moe-train, or of a run that stopped early.
ScalingRun read_scaling_run(const std::string& path);

// Prints the table, writes --json and --svg. Error(kCheckFailed) if the losses do not fall with compute.
Exit eval_scaling(const std::vector<std::string>& paths, const EvalScalingOptions& options, const CommonOptions& common);

}  // namespace moe
