// EPLB as published (deepseek-ai/EPLB d52c72d, eplb.py), one layer at a time and with stable sorting. Sums and quotients
// are in float as there, so that equal loads tie where they tie there.
#include "lib/place/eplb.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "lib/base/error.h"

namespace moe {
namespace {

using Size = std::size_t;

struct Packing {
  std::vector<Size> pack, place;  // of each item: which pack, and where in it
};

// Items by descending weight, each into the lightest pack that has room; packs of equal size.
Packing balanced_packing(std::span<const float> weight, Size num_packs) {
  const Size n = weight.size(), capacity = n / num_packs;
  Packing p{std::vector<Size>(n), std::vector<Size>(n)};
  if (capacity == 1) {
    std::iota(p.pack.begin(), p.pack.end(), Size{0});
    return p;
  }
  std::vector<Size> order(n), filled(num_packs);
  std::iota(order.begin(), order.end(), Size{0});
  std::stable_sort(order.begin(), order.end(), [&](Size a, Size b) { return weight[a] > weight[b]; });
  std::vector<float> sum(num_packs);
  for (const Size item : order) {
    Size best = num_packs;
    for (Size i = 0; i < num_packs; ++i)
      if (filled[i] < capacity && (best == num_packs || sum[i] < sum[best])) best = i;
    p.pack[item] = best;
    p.place[item] = filled[best]++;
    sum[best] += weight[item];
  }
  return p;
}

// One copy of each, then one more of the expert with the most load per copy until there are num_slots.
struct Replicas {
  std::vector<Size> slot2expert;
  std::vector<float> load;  // of each expert's copies
};

Replicas replicate_experts(std::span<const float> weight, Size num_slots) {
  Replicas r{std::vector<Size>(weight.size()), {weight.begin(), weight.end()}};
  std::iota(r.slot2expert.begin(), r.slot2expert.end(), Size{0});
  std::vector<float> count(weight.size(), 1.0F);
  while (r.slot2expert.size() < num_slots) {
    const auto e = static_cast<Size>(std::max_element(r.load.begin(), r.load.end()) - r.load.begin());
    r.slot2expert.push_back(e);
    r.load[e] = weight[e] / ++count[e];
  }
  return r;
}

// Experts in the order of the nodes that their groups were packed on: whole groups, as many to a node.
std::vector<Size> experts_by_node(std::span<const float> weight, Size num_groups, Size num_nodes) {
  const Size group_size = weight.size() / num_groups, groups_per_node = num_groups / num_nodes;
  std::vector<float> group_weight(num_groups);
  for (Size e = 0; e < weight.size(); ++e) group_weight[e / group_size] += weight[e];
  const Packing p = balanced_packing(group_weight, num_nodes);
  std::vector<Size> list(weight.size());
  for (Size e = 0; e < weight.size(); ++e) {
    const Size g = e / group_size;
    list[(p.pack[g] * groups_per_node + p.place[g]) * group_size + e % group_size] = e;
  }
  return list;
}

// The slots of one node: its experts, with copies, on its ranks.
void place_node(std::span<const Size> experts, std::span<const float> load_E, Size num_slots, Size num_ranks,
                LayerPlacement& layer) {
  std::vector<float> weight;
  for (const Size e : experts) weight.push_back(load_E[e]);
  const Replicas r = replicate_experts(weight, num_slots);
  std::vector<float> slot_load;
  for (const Size e : r.slot2expert) slot_load.push_back(r.load[e]);
  const Packing p = balanced_packing(slot_load, num_ranks);
  const Size first = layer.rank2experts.size();
  layer.rank2experts.resize(first + num_ranks, std::vector<int>(num_slots / num_ranks));
  for (Size s = 0; s < num_slots; ++s)
    layer.rank2experts[first + p.pack[s]][p.place[s]] = static_cast<int>(experts[r.slot2expert[s]]);
}

void need_multiple(const std::string& what, int n, const std::string& of, int divisor) {
  if (divisor < 1 || n < divisor || n % divisor != 0)
    throw Error(Exit::kUsage,
                "EPLB: expected " + what + " in a multiple of the " + std::to_string(divisor) + " " + of + ", found " +
                    std::to_string(n),
                "the own policy has no such limit");
}

}  // namespace

LayerPlacement eplb_layer(std::span<const double> load_E, int num_slots, int num_groups, int num_nodes, int num_ranks) {
  const int num_experts = static_cast<int>(load_E.size());
  need_multiple("slots", num_slots, "ranks", num_ranks);
  need_multiple("ranks", num_ranks, "nodes", num_nodes);
  need_multiple("experts", num_experts, "groups", num_groups);
  if (num_slots < num_experts)
    throw Error(Exit::kUsage, "EPLB: expected at least " + std::to_string(num_experts) + " slots, one per expert, found " +
                                  std::to_string(num_slots));
  if (num_groups % num_nodes != 0) num_groups = num_nodes = 1;  // the global policy
  const std::vector<float> weight(load_E.begin(), load_E.end());
  const auto nodes = static_cast<Size>(num_nodes);
  const std::vector<Size> experts = experts_by_node(weight, static_cast<Size>(num_groups), nodes);
  const Size per_node = experts.size() / nodes;
  LayerPlacement layer;
  for (Size n = 0; n < nodes; ++n)
    place_node(std::span(experts).subspan(n * per_node, per_node), weight, static_cast<Size>(num_slots) / nodes,
               static_cast<Size>(num_ranks) / nodes, layer);
  return layer;
}

}  // namespace moe
