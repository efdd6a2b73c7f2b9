// Routing groups on nodes, whole. Not here: the experts of a node on its ranks (solve_layer.cpp).
#include <algorithm>
#include <numeric>
#include <string>

#include "lib/base/error.h"
#include "lib/place/solve_layer.h"

namespace moe {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Nodes {
  std::vector<int> ranks_N, room_N;  // room: groups that still fit
  std::vector<double> load_N;
  double per_rank(int n, double more) const { return (load_N[at(n)] + more) / ranks_N[at(n)]; }
  int num() const { return static_cast<int>(ranks_N.size()); }
};

std::vector<int> pinned_nodes(const LayerProblem& p, const Topology& topology, int num_groups) {
  std::vector<int> node_G(at(num_groups), -1);
  for (const auto& [rank, expert] : p.pins) {
    int& node = node_G[at(expert / (p.num_experts() / num_groups))];
    const int wanted = topology.rank2node[at(rank)];
    if (node >= 0 && node != wanted)
      throw Error(Exit::kUsage, "pins: expected the experts of a group on one node, found expert " + std::to_string(expert) +
                                    " pinned to node " + std::to_string(wanted) + " and others of its group to node " +
                                    std::to_string(node));
    node = wanted;
  }
  return node_G;
}

void place(Nodes& nodes, std::vector<int>& group2node, int group, int node, double load) {
  if (nodes.room_N[at(node)] == 0)
    throw Error(Exit::kUsage, "node " + std::to_string(node) + " has no room for the groups pinned to it");
  group2node[at(group)] = node;
  --nodes.room_N[at(node)];
  nodes.load_N[at(node)] += load;
}

// Exchanges groups while that makes the heavier of two nodes lighter per rank.
void exchange_groups(Nodes& nodes, std::vector<int>& group2node, const std::vector<double>& load_G,
                     const std::vector<int>& pinned_G) {
  for (bool better = true; better;) {
    better = false;
    for (std::size_t a = 0; a < load_G.size(); ++a)
      for (std::size_t b = 0; b < load_G.size(); ++b) {
        const int n = group2node[a], m = group2node[b];
        const double d = load_G[a] - load_G[b], before = std::max(nodes.per_rank(n, 0), nodes.per_rank(m, 0));
        if (n == m || pinned_G[a] >= 0 || pinned_G[b] >= 0) continue;
        if (std::max(nodes.per_rank(n, -d), nodes.per_rank(m, d)) >= before * (1 - 1e-9)) continue;
        nodes.load_N[at(n)] -= d;
        nodes.load_N[at(m)] += d;
        std::swap(group2node[a], group2node[b]);
        better = true;
      }
  }
}

}  // namespace

std::vector<int> groups_to_nodes(const LayerProblem& p, const Topology& topology, int num_groups) {
  if (num_groups < 1 || p.num_experts() % num_groups != 0)
    throw Error(Exit::kUsage, "expected a number of groups that divides the " + std::to_string(p.num_experts()) +
                                  " experts, found " + std::to_string(num_groups));
  const int size = p.num_experts() / num_groups;
  std::vector<double> load_G(at(num_groups));
  for (int e = 0; e < p.num_experts(); ++e) load_G[at(e / size)] += p.load_E[at(e)];
  Nodes nodes{topology.num_ranks_of_node(), std::vector<int>(at(topology.num_nodes())),
              std::vector<double>(at(topology.num_nodes()))};
  for (int r = 0; r < p.num_ranks(); ++r) nodes.room_N[at(topology.rank2node[at(r)])] += p.max_slots_R[at(r)];
  for (int& room : nodes.room_N) room /= size;
  const std::vector<int> pinned_G = pinned_nodes(p, topology, num_groups);
  std::vector<int> group2node(at(num_groups), -1), order(at(num_groups));
  for (int g = 0; g < num_groups; ++g)
    if (pinned_G[at(g)] >= 0) place(nodes, group2node, g, pinned_G[at(g)], load_G[at(g)]);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return load_G[at(a)] > load_G[at(b)]; });
  for (const int g : order) {
    if (group2node[at(g)] >= 0) continue;
    int best = -1;
    for (int n = 0; n < nodes.num(); ++n)
      if (nodes.room_N[at(n)] > 0 && (best < 0 || nodes.per_rank(n, load_G[at(g)]) < nodes.per_rank(best, load_G[at(g)])))
        best = n;
    if (best < 0)
      throw Error(Exit::kUsage,
                  "expected nodes with room for " + std::to_string(num_groups) + " groups of " + std::to_string(size) +
                      " experts, found room for fewer",
                  "more slots per rank, or without --keep-groups");
    place(nodes, group2node, g, best, load_G[at(g)]);
  }
  exchange_groups(nodes, group2node, load_G, pinned_G);
  return group2node;
}

std::vector<NodePart> parts_of_groups(const LayerProblem& p, const std::vector<int>& group2node, int num_nodes) {
  std::vector<NodePart> part_N(at(num_nodes));
  const int size = p.num_experts() / static_cast<int>(group2node.size());
  for (int e = 0; e < p.num_experts(); ++e) {
    NodePart& part = part_N[at(group2node[at(e / size)])];
    part.experts.push_back(e);
    part.load.push_back(p.load_E[at(e)]);
  }
  return part_N;
}

}  // namespace moe
