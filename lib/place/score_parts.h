// What the files of score share: who receives the rows of an expert that comes from somewhere, and what is refused. Not
// here: sums over them.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "lib/place/score.h"

namespace moe {

// Error(kBadInput) as score.h says.
void check_loads(std::span<const double> load_E);
void check_placement(const LayerPlacement& placed, std::size_t num_experts, const Topology& topology);

// The ranks of each expert's copies, ascending; a rank with two copies is there twice.
std::vector<std::vector<int>> expert_ranks(const LayerPlacement& placed, std::size_t num_experts);

// One who gets a part of an expert's rows: a rank, or a node. The parts of an expert sum to 1.
struct Part {
  int at;
  double share;
};
// Of the rows that come from rank `source`, by rank.
std::vector<Part> parts_by_rank(const std::vector<int>& ranks, int source, const Topology& topology, ReplicaChoice choice);
// Of the rows that come from any rank of node `source`, by node, each node once.
std::vector<Part> parts_by_node(const std::vector<int>& ranks, int source, const Topology& topology, ReplicaChoice choice);

// P(a token touches each node), given the parts of each expert's rows that nodes get.
using TouchedNodes = std::function<std::vector<double>(const std::vector<std::vector<Part>>& parts_E)>;
TouchedNodes counted_touches(const LayerLoads& loads, int top_k, int num_nodes);    // over sample_TK
TouchedNodes estimated_touches(const LayerLoads& loads, int top_k, int num_nodes);  // from coactivation_EE

// P(X >= 1) of a whole number X in [0, log_base.size()) of which E[X] and E[X (X - 1)] are known; log_base: how likely each
// X is a priori. score_estimate.cpp says how.
double touch_probability(double mean, double pairs, const std::vector<double>& log_base);

}  // namespace moe
