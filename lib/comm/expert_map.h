// Which rank of an expert-parallel group holds which expert, and in which place; and which of several copies a token takes.
// Not here: where a placement comes from (lib/place).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/base/placement.h"

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

// Copies in turn (ReplicaChoice): the token t of rank r takes the (r + t)-th of those that it may take, modulo their number.
// A function of the token's place alone, so that it is the same whenever it is asked.
class SlotChoice {
 public:
  SlotChoice(const LayerPlacement& placed, int num_experts, const std::vector<int>& rank2node, int rank,
             ReplicaChoice choice);
  // slot_N (=) a slot of each logical expert of idx_N (slot t*K + k of token t; -1 stays -1).
  void choose(std::span<const std::int32_t> idx_N, int top_k, std::vector<std::int32_t>& slot_N) const;

 private:
  std::vector<std::vector<std::int32_t>> expert2slots_;  // those that a token of this rank may take
  int rank_;
};

// A layer as a dispatcher follows it. Where every expert has one place, the ids of `map` are logical experts; where some
// have copies they are slots, and `choice` has the one that takes them there.
struct LayerMap {
  ExpertMap map;
  std::vector<SlotChoice> choice;  // none or one

  // rank2node, rank: of the expert-parallel group.
  static LayerMap of(const LayerPlacement& placed, int num_experts, const std::vector<int>& rank2node, int rank,
                     ReplicaChoice choice);
};

}  // namespace moe
