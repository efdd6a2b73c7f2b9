// The placement algorithm that DeepSeek published as EPLB (deepseek-ai/EPLB, hierarchical and global policy), with stable
// sorting: equal loads keep the order of their indices. For comparison and for plans that must equal EPLB's. It may put two
// copies of one expert on one rank, which training forbids. Not here: our own solver (solve.h).
#pragma once

#include <span>

#include "lib/base/placement.h"

namespace moe {

// load_E: rows of each expert. num_slots: a multiple of num_ranks, at least the number of experts; num_ranks: a multiple of
// num_nodes. Hierarchical if num_groups is a multiple of num_nodes, else global. Error(kUsage) names what does not divide.
LayerPlacement eplb_layer(std::span<const double> load_E, int num_slots, int num_groups, int num_nodes, int num_ranks);

}  // namespace moe
