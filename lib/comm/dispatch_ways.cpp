#include "lib/comm/dispatch_ways.h"

#include <algorithm>
#include <map>

#include "lib/base/error.h"

namespace moe {
namespace {

// Nodes by their lowest rank, their ranks ascending.
std::vector<std::vector<int>> ranks_of_nodes(const std::vector<int>& rank2node) {
  std::vector<std::vector<int>> nodes;
  std::map<int, std::size_t> number2place;
  for (int r = 0; r < static_cast<int>(rank2node.size()); ++r) {
    const auto [at, fresh] = number2place.try_emplace(rank2node[r], nodes.size());
    if (fresh) nodes.emplace_back();
    nodes[at->second].push_back(r);
  }
  return nodes;
}

int place_in(const std::vector<int>& ranks, int rank) {
  return static_cast<int>(std::find(ranks.begin(), ranks.end(), rank) - ranks.begin());
}

bool has_several_ranks(const std::vector<int>& node) { return node.size() > 1; }

DispatchMode decided(DispatchMode wanted, const std::vector<std::vector<int>>& nodes) {
  if (wanted != DispatchMode::kAuto) return wanted;
  const bool two_level = nodes.size() > 1 && std::any_of(nodes.begin(), nodes.end(), has_several_ranks);
  return two_level ? DispatchMode::kTwoLevel : DispatchMode::kFlat;
}

void expect_sizes(std::size_t ranks, const ExpertMap& map) {
  if (map.rank2experts.size() == ranks) return;
  throw Error(Exit::kInternal, "dispatch: expected a map of experts to " + std::to_string(ranks) + " ranks, found " +
                                   std::to_string(map.rank2experts.size()));
}

}  // namespace

DispatchWays::DispatchWays(int rank, std::vector<int> rank2node, DispatchMode wanted) : rank(rank) {
  const auto real_nodes = ranks_of_nodes(rank2node);
  for (const int node : rank2node) {
    is_far_R.push_back(node != rank2node[rank]);
    rank2other_node_R.push_back(is_far_R.back() ? place_in(rank2node, node) : -1);  // a node is known by its lowest rank
  }
  mode = decided(wanted, real_nodes);
  if (mode == DispatchMode::kFlat)
    for (int r = 0; r < static_cast<int>(rank2node.size()); ++r) rank2node[r] = r;

  const auto nodes = ranks_of_nodes(rank2node);
  hop1 = nodes.size() > 1;
  hop2 = std::any_of(nodes.begin(), nodes.end(), has_several_ranks);
  rank2bucket_R.resize(rank2node.size());
  for (const auto& node : nodes)
    if (rank2node[node[0]] == rank2node[rank]) inside = node;
  self_inside = place_in(inside, rank);
  for (const auto& node : nodes) {
    const bool own = node[0] == inside[0];
    for (std::size_t i = 0; i < node.size(); ++i) {
      if (own) inside2bucket.push_back(static_cast<int>(buckets.size()));
      if (own) buckets.push_back({node[i], true});
      if (!own && i == 0) buckets.push_back({node[static_cast<std::size_t>(self_inside) % node.size()], false});
      rank2bucket_R[node[i]] = static_cast<std::int32_t>(buckets.size()) - 1;
      if (!own && static_cast<int>(i % inside.size()) == self_inside) sources.push_back(node[i]);
    }
  }
  std::sort(sources.begin(), sources.end());
  self_bucket = inside2bucket[self_inside];

  for (std::size_t r = 0; r < rank2node.size(); ++r)
    rank2inside_R.push_back(rank2node[r] == rank2node[rank] ? place_in(inside, static_cast<int>(r)) : -1);
}

ExpertWays::ExpertWays(const DispatchWays& ways, const ExpertMap& map) : rank(ways.rank) {
  expect_sizes(ways.rank2bucket_R.size(), map);
  num_local_experts = static_cast<int>(map.rank2experts[ways.rank].size());
  for (int e = 0; e < map.num_experts(); ++e) {
    const int r = map.expert2rank[e];
    expert2bucket_E.push_back(ways.rank2bucket_R[r]);
    expert2inside_E.push_back(ways.rank2inside_R[r]);
    expert2local_E.push_back(r == ways.rank ? map.expert2local[e] : -1);
    expert2other_node_E.push_back(ways.rank2other_node_R[r]);
  }
}

}  // namespace moe
