#include "lib/comm/expert_map.h"

namespace moe {
namespace {

// Ids of `rank2ids` and where they are.
ExpertMap map_of(std::vector<std::vector<int>> rank2ids, int num_ids) {
  ExpertMap map;
  map.expert2rank.resize(static_cast<std::size_t>(num_ids));
  map.expert2local.resize(static_cast<std::size_t>(num_ids));
  for (std::size_t r = 0; r < rank2ids.size(); ++r)
    for (std::size_t place = 0; place < rank2ids[r].size(); ++place) {
      const auto id = static_cast<std::size_t>(rank2ids[r][place]);
      map.expert2rank[id] = static_cast<int>(r);
      map.expert2local[id] = static_cast<int>(place);
    }
  map.rank2experts = std::move(rank2ids);
  return map;
}

// Slots are numbered rank by rank.
std::vector<std::vector<int>> slots_of_ranks(const LayerPlacement& placed) {
  std::vector<std::vector<int>> rank2slots;
  int next = 0;
  for (const auto& experts : placed.rank2experts) {
    rank2slots.emplace_back();
    for (std::size_t i = 0; i < experts.size(); ++i) rank2slots.back().push_back(next++);
  }
  return rank2slots;
}

}  // namespace

ExpertMap linear_expert_map(int num_experts, int num_ranks) {
  return map_of(linear_layer(num_experts, num_ranks).rank2experts, num_experts);
}

SlotChoice::SlotChoice(const LayerPlacement& placed, int num_experts, const std::vector<int>& rank2node, int rank,
                       ReplicaChoice choice)
    : expert2slots_(static_cast<std::size_t>(num_experts)), rank_(rank) {
  const std::vector<int> slot2expert = placed.slot2expert(), slot2rank = placed.slot2rank();
  const auto node_of = [&](int r) { return rank2node[static_cast<std::size_t>(r)]; };
  // 0: on this rank, 1: in this node, 2: elsewhere. Of each expert the nearest are kept.
  const auto distance = [&](int r) { return r == rank ? 0 : node_of(r) == node_of(rank) ? 1 : 2; };
  std::vector<int> nearest(static_cast<std::size_t>(num_experts), 3);
  for (std::size_t s = 0; s < slot2expert.size(); ++s) {
    const auto e = static_cast<std::size_t>(slot2expert[s]);
    const int d = choice == ReplicaChoice::kSpread ? 0 : distance(slot2rank[s]);
    if (d < nearest[e]) expert2slots_[e].clear();
    if (d <= nearest[e]) expert2slots_[e].push_back(static_cast<std::int32_t>(s)), nearest[e] = d;
  }
}

void SlotChoice::choose(std::span<const std::int32_t> idx_N, int top_k, std::vector<std::int32_t>& slot_N) const {
  slot_N.assign(idx_N.size(), -1);
  for (std::size_t i = 0; i < idx_N.size(); ++i) {
    if (idx_N[i] < 0) continue;
    const auto& slots = expert2slots_.at(static_cast<std::size_t>(idx_N[i]));
    const std::size_t turn = i / static_cast<std::size_t>(top_k) + static_cast<std::size_t>(rank_);
    slot_N[i] = slots[slots.size() == 1 ? 0 : turn % slots.size()];
  }
}

LayerMap LayerMap::of(const LayerPlacement& placed, int num_experts, const std::vector<int>& rank2node, int rank,
                      ReplicaChoice choice) {
  const int num_slots = placed.num_slots();
  if (num_slots == num_experts) return {map_of(placed.rank2experts, num_experts), {}};
  return {map_of(slots_of_ranks(placed), num_slots), {SlotChoice(placed, num_experts, rank2node, rank, choice)}};
}

}  // namespace moe
