// moe-eval routing: how the routers of a model spread the tokens of data sets over the experts. Not here: the file
// (lib/io/routing_stats.h), what is made of it (moe-place).
#pragma once

#include <string>
#include <vector>

#include "lib/run/eval_perplexity.h"

namespace moe {

// What the routers of all MoE layers did with one data set; of all ranks, on every rank.
struct DataRouting {
  std::int64_t num_tokens = 0;
  std::vector<std::int64_t> counts_LE;         // tokens that chose each expert
  std::vector<std::int64_t> coactivation_LEE;  // tokens that chose both
  std::vector<double> entropy_L;               // mean over tokens of the normalised scores, nats
};
// Whole windows side by side from the beginning of the data (of data shorter than one, all but its last token); max_tokens >
// 0: windows spread evenly over it. A collective call.
DataRouting route_data(EvalModel& model, const TokenSource& data, std::int64_t max_tokens);

// Mean over layers of the total variation between the two loads: the share of choices that would have to change, 0 if both
// load all experts alike, 1 if they share none.
double load_distance(const DataRouting& a, const DataRouting& b, int num_experts);

// output: routing.h5, a step for each file of --data in their order, co-activation of all; "": none is written.
Exit eval_routing(const std::string& path, const std::string& output, const EvalDataOptions& options,
                  const EvalModelOptions& model, const CommonOptions& common, const Invocation& invocation, World& world,
                  Env env);

}  // namespace moe
