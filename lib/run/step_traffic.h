// What a training step sends, worked out from the mesh without running anything: rows of tokens to their experts and back,
// gathers of weights, sums of gradients (ZeRO, replicas). Payload alone; counts, ids and totals, sums for copies of experts,
// evaluations and checkpoints are left out.
// Not here: sending (lib/comm/dispatch.h, lib/parallel/units.h), memory (lib/model/model.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/model/mesh_context.h"
#include "lib/run/train_options.h"

namespace moe {

// Bytes that ranks send to others.
struct SentBytes {
  double inter = 0, intra = 0;  // between nodes, inside
  SentBytes& operator+=(const SentBytes& other) { return inter += other.inter, intra += other.intra, *this; }
};

// Of all ranks, in one step of the largest batch.
struct StepTraffic {
  SentBytes dispatch, combine;                                // rows out and home, forward and backward
  SentBytes gather, reduce, replicas;                         // weights; gradients to their shards; shards over the replicas
  double inter_rows_per_token = 0, intra_rows_per_token = 0;  // of one dispatch, mean over layers
  int num_ranks = 1;
  SentBytes total() const;
};

// Rows are counted as if tokens chose their experts blindly, within the limit of groups or nodes. An expert with copies
// counts at each by its share.
StepTraffic step_traffic(const TrainOptions& options, const MeshOptions& mesh, const std::vector<int>& rank2node);

// P(some of the experts that a token chooses are in a set): top_k of num_experts at random, from `kept` of `parts` parts of
// the experts of equal size, chosen at random too. here_P: the set's experts in each part.
double touch_chance(int num_experts, int top_k, int kept, const std::vector<double>& here_P);

std::string traffic_text(const StepTraffic& traffic);  // a table
nlohmann::json traffic_json(const StepTraffic& traffic);

}  // namespace moe
