// moe-eval: one options list, and which command gets what. Not here: what the commands do.
#pragma once

#include "lib/run/eval_curves.h"
#include "lib/run/eval_generate.h"
#include "lib/run/eval_perplexity.h"
#include "lib/run/eval_routing.h"
#include "lib/run/eval_scaling.h"
#include "lib/run/eval_tasks.h"

namespace moe {

struct EvalOptions {
  CommonOptions common;
  std::vector<std::string> arguments;  // a command and its paths
  std::string output;                  // of routing and generate
  EvalModelOptions model;
  EvalDataOptions data;
  EvalTaskOptions tasks;
  GenerateOptions generate;
  EvalScalingOptions scaling;
};

Options eval_options(EvalOptions& eval);
Exit run_eval(EvalOptions& eval, const Invocation& invocation, World& world);

}  // namespace moe
