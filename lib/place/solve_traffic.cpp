#include "lib/place/solve_traffic.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "lib/base/error.h"
#include "lib/place/node_counts.h"
#include "lib/place/solve_nodes.h"

namespace moe {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// What the search of a layer works on.
struct Layer {
  const LayerProblem& problem;
  const LayerLoads& loads;
  const SolveRequest& request;
  int top_k, num_kicks;
  const Stop& stop;
  TokenList tokens;

  int num_nodes() const { return request.topology.num_nodes(); }
  double mean() const { return std::accumulate(problem.load_E.begin(), problem.load_E.end(), 0.0) / problem.num_ranks(); }
};

double max_load(const Layer& l, const LayerPlacement& placed) {
  return max_over_mean(rank_loads(placed, l.loads, l.request.topology)) * l.mean();
}

// share[e][n]: the part of the expert's copies that are on the node.
std::vector<double> shares(const Layer& l, const LayerPlacement& placed) {
  std::vector<double> share_EN(l.problem.load_E.size() * at(l.num_nodes()));
  std::vector<int> copies(l.problem.load_E.size());
  for (const int e : placed.slot2expert()) ++copies[at(e)];
  for (int r = 0; r < placed.num_ranks(); ++r)
    for (const int e : placed.rank2experts[at(r)])
      share_EN[at(e) * at(l.num_nodes()) + at(l.request.topology.rank2node[at(r)])] += 1.0 / copies[at(e)];
  for (double& s : share_EN)
    if (s > 1 - 1e-9) s = 1;  // all copies on one node
  return share_EN;
}

// Experts that may change nodes: of one copy, not pinned.
std::vector<bool> movable(const Layer& l, const LayerPlacement& placed) {
  std::vector<int> copies(l.problem.load_E.size());
  for (const int e : placed.slot2expert()) ++copies[at(e)];
  std::vector<bool> may_E;
  for (const int n : copies) may_E.push_back(n == 1);
  for (const auto& [rank, expert] : l.problem.pins) may_E[at(expert)] = false;
  return may_E;
}

// The nodes' experts after the exchanges: those that did not move as in `placed`.
std::vector<NodePart> parts_after(const Layer& l, const LayerPlacement& placed, const NodeCounts& counts,
                                  const std::vector<bool>& may_E) {
  const std::vector<double> share_EN = shares(l, placed);
  std::vector<int> copies(l.problem.load_E.size());
  for (const int e : placed.slot2expert()) ++copies[at(e)];
  std::vector<NodePart> part_N(at(l.num_nodes()));
  for (int e = 0; e < l.problem.num_experts(); ++e)
    for (int n = 0; n < l.num_nodes(); ++n) {
      const double share = may_E[at(e)] ? (counts.node_of(e) == n ? 1 : 0) : share_EN[at(e) * at(l.num_nodes()) + at(n)];
      if (share == 0) continue;
      part_N[at(n)].experts.push_back(e);
      part_N[at(n)].load.push_back(l.problem.load_E[at(e)] * share);
      part_N[at(n)].num_copies.push_back(static_cast<int>(std::lround(share * copies[at(e)])));
    }
  return part_N;
}

// Experts gathered on nodes under the limit, then the nodes' ranks balanced, then exchanges between ranks that keep the
// limit: from the placement `start`.
LayerPlacement gather(const Layer& l, const LayerPlacement& start, double limit) {
  NodeCounts counts(l.tokens, shares(l, start), l.request.topology);
  const std::vector<bool> may_E = movable(l, start);
  exchange_between_nodes(counts, l.problem.load_E, may_E, node_limits(start, l.problem.load_E, l.request.topology, limit),
                         l.stop);
  LayerPlacement placed =
      balance_nodes(l.problem, l.request.topology, parts_after(l, start, counts, may_E), l.num_kicks, l.stop);
  exchange_between_ranks(counts, l.problem, may_E, limit, placed, l.stop);
  return placed;
}

// Whole groups instead of experts: a group is one item of every token that chose any of its experts.
LayerPlacement gather_groups(const Layer& l, double limit) {
  const int num_groups = l.request.num_groups, size = l.problem.num_experts() / num_groups;
  const Topology& topology = l.request.topology;
  std::vector<int> group2node = groups_to_nodes(l.problem, topology, num_groups);
  TokenList tokens;
  for (std::size_t t = 0; t < l.tokens.weight.size(); ++t) {
    std::vector<std::int32_t> groups;
    for (std::size_t i = l.tokens.start[t]; i < l.tokens.start[t + 1]; ++i) groups.push_back(l.tokens.expert[i] / size);
    std::sort(groups.begin(), groups.end());
    groups.erase(std::unique(groups.begin(), groups.end()), groups.end());
    tokens.expert.insert(tokens.expert.end(), groups.begin(), groups.end());
    tokens.start.push_back(tokens.expert.size());
    tokens.weight.push_back(l.tokens.weight[t]);
  }
  std::vector<double> share_GN(at(num_groups * l.num_nodes())), load_G(at(num_groups));
  std::vector<bool> may_G(at(num_groups), true);
  for (int e = 0; e < l.problem.num_experts(); ++e) load_G[at(e / size)] += l.problem.load_E[at(e)];
  for (int g = 0; g < num_groups; ++g) share_GN[at(g * l.num_nodes() + group2node[at(g)])] = 1;
  for (const auto& [rank, expert] : l.problem.pins) may_G[at(expert / size)] = false;
  NodeCounts counts(tokens, share_GN, topology);
  std::vector<double> limit_N;
  for (const int ranks : topology.num_ranks_of_node()) limit_N.push_back(limit * ranks);
  exchange_between_nodes(counts, load_G, may_G, {std::vector<double>(at(l.num_nodes())), limit_N}, l.stop);
  for (int g = 0; g < num_groups; ++g) group2node[at(g)] = counts.node_of(g);
  return balance_nodes(l.problem, topology, parts_of_groups(l.problem, group2node, l.num_nodes()), l.num_kicks, l.stop);
}

double rows_of(const Layer& l, const LayerPlacement& placed) {
  return inter_node_rows_per_token(placed, l.loads, l.top_k, l.request.topology, l.request.choice);
}

double seconds_of(const Layer& l, const LayerPlacement& placed) {
  Loads loads{l.problem.num_experts(), l.top_k, {0}, {l.loads}};
  return score({l.problem.num_experts(), {0}, {placed}}, loads, l.request.topology, l.request.cost,
               l.request.tokens_per_step, l.request.choice)
      .seconds;
}

// Of the placements within the limit the one with the fewest rows; if none is, the most even one.
LayerPlacement fewest_rows(const Layer& l, const LayerPlacement& balanced, double limit) {
  std::vector<LayerPlacement> tried{balanced};
  if (l.request.keep_groups) {
    tried.push_back(gather_groups(l, limit));
  } else {
    tried.push_back(gather(l, balanced, limit));
    if (!has_copies(l.problem)) {
      const LayerPlacement together = gathered_start(l.problem, l.tokens, l.request.topology, limit);
      if (together.num_ranks() > 0) tried.push_back(gather(l, together, limit));
    }
  }
  const LayerPlacement* best = &tried[0];
  double rows = rows_of(l, balanced);
  for (const LayerPlacement& placed : tried)
    if (max_load(l, placed) <= limit * (1 + 1e-9) && rows_of(l, placed) < rows) best = &placed, rows = rows_of(l, placed);
  return *best;
}

// Balance and traffic pull apart: what each limit of balance brings, by the cost model.
LayerPlacement least_seconds(const Layer& l, const LayerPlacement& balanced, double most_even) {
  LayerPlacement best = balanced;
  double seconds = seconds_of(l, best);
  for (const double limit : {1.0, 1.02, 1.05, 1.1, 1.2, 1.4, 2.0, 1e9}) {
    const LayerPlacement placed = fewest_rows(l, balanced, std::max(most_even, limit * l.mean()));
    const double s = seconds_of(l, placed);
    if (s < seconds) best = placed, seconds = s;
  }
  return best;
}

}  // namespace

LayerPlacement traffic_layer(const LayerProblem& problem, const LayerLoads& loads, int top_k, const SolveRequest& request,
                             int num_kicks, const Stop& stop) {
  const Layer l{problem, loads, request, top_k, num_kicks, stop, tokens_of(loads, top_k)};
  const LayerPlacement balanced =
      request.keep_groups
          ? balance_nodes(
                problem, request.topology,
                parts_of_groups(problem, groups_to_nodes(problem, request.topology, request.num_groups), l.num_nodes()),
                num_kicks, stop)
          : balance_layer(problem, num_kicks, stop);
  if (l.num_nodes() < 2) return balanced;
  if (l.tokens.weight.empty())
    throw Error(Exit::kUsage,
                "traffic: expected decisions of tokens or how often experts are chosen together, found loads alone",
                "give routing statistics or a trace (--routing), or --objective balance");
  const double most_even = max_load(l, balanced);
  if (request.objective == Objective::kTime) return least_seconds(l, balanced, most_even);
  return fewest_rows(l, balanced, std::max(most_even, request.balance_limit * l.mean()));
}

}  // namespace moe
