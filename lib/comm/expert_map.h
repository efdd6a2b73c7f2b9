// Which rank of an expert-parallel group holds which expert, and in which place. Not here: where a plan comes from
// (lib/place).
#pragma once

#include <vector>

namespace moe {

struct ExpertMap {
  std::vector<int> expert2rank;                // of the expert-parallel group
  std::vector<int> expert2local;               // place among the experts of its rank
  std::vector<std::vector<int>> rank2experts;  // logical ids in the order of their places; may be empty

  int num_experts() const { return static_cast<int>(expert2rank.size()); }
  int num_ranks() const { return static_cast<int>(rank2experts.size()); }
};

// Rank r holds experts [E r / ranks, E (r+1) / ranks): contiguous, sizes that differ by at most one; more ranks than experts
// leaves some without.
ExpertMap linear_expert_map(int num_experts, int num_ranks);

}  // namespace moe
