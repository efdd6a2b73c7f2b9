#include "lib/place/score_parts.h"

#include <algorithm>
#include <cmath>

#include "lib/base/error.h"

namespace moe {

void check_loads(std::span<const double> load_E) {
  for (std::size_t e = 0; e < load_E.size(); ++e)
    if (!(load_E[e] >= 0) || std::isinf(load_E[e]))
      throw Error(Exit::kBadInput, "load of expert " + std::to_string(e) + ": expected a finite number from 0, found " +
                                       std::to_string(load_E[e]));
}

void check_placement(const LayerPlacement& placed, std::size_t num_experts, const Topology& topology) {
  if (placed.num_ranks() != topology.num_ranks())
    throw Error(Exit::kBadInput, "topology: expected the placement's " + std::to_string(placed.num_ranks()) +
                                     " ranks, found " + std::to_string(topology.num_ranks()) + " (" +
                                     topology_text(topology) + ")");
  const std::vector<std::vector<int>> ranks = expert_ranks(placed, num_experts);
  const auto missing = std::find_if(ranks.begin(), ranks.end(), [](const auto& r) { return r.empty(); });
  if (missing != ranks.end())
    throw Error(Exit::kBadInput,
                "placement: expected every expert on a rank, found none for " + std::to_string(missing - ranks.begin()));
}

std::vector<std::vector<int>> expert_ranks(const LayerPlacement& placed, std::size_t num_experts) {
  std::vector<std::vector<int>> ranks(num_experts);
  for (int r = 0; r < placed.num_ranks(); ++r)
    for (const int e : placed.rank2experts[static_cast<std::size_t>(r)]) {
      if (e < 0 || static_cast<std::size_t>(e) >= num_experts)
        throw Error(Exit::kBadInput, "placement: expected experts 0 to " + std::to_string(num_experts - 1) + ", found " +
                                         std::to_string(e) + " on rank " + std::to_string(r));
      ranks[static_cast<std::size_t>(e)].push_back(r);
    }
  return ranks;
}

namespace {

// Those of `ranks` that are on `node`; all if none is or the choice does not ask.
std::vector<int> candidates(const std::vector<int>& ranks, int node, const Topology& topology, ReplicaChoice choice) {
  std::vector<int> near;
  if (choice == ReplicaChoice::kNearest)
    std::copy_if(ranks.begin(), ranks.end(), std::back_inserter(near),
                 [&](int r) { return topology.rank2node[static_cast<std::size_t>(r)] == node; });
  return near.empty() ? ranks : near;
}

}  // namespace

std::vector<Part> parts_by_rank(const std::vector<int>& ranks, int source, const Topology& topology, ReplicaChoice choice) {
  if (choice == ReplicaChoice::kNearest && std::find(ranks.begin(), ranks.end(), source) != ranks.end())
    return {{source, 1}};
  std::vector<Part> parts;
  const std::vector<int> all = candidates(ranks, topology.rank2node[static_cast<std::size_t>(source)], topology, choice);
  for (const int r : all) parts.push_back({r, 1.0 / static_cast<double>(all.size())});
  return parts;
}

std::vector<Part> parts_by_node(const std::vector<int>& ranks, int source, const Topology& topology, ReplicaChoice choice) {
  std::vector<Part> parts;
  const std::vector<int> all = candidates(ranks, source, topology, choice);
  for (const int r : all) {
    const int node = topology.rank2node[static_cast<std::size_t>(r)];
    if (parts.empty() || parts.back().at != node) parts.push_back({node, 0});
    parts.back().share += 1.0 / static_cast<double>(all.size());
  }
  return parts;
}

}  // namespace moe
