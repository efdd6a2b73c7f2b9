// Rows that cross nodes, and their count over recorded decisions. Not here: the estimate without them
// (score_estimate.cpp).
#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/base/error.h"
#include "lib/place/score_parts.h"

namespace moe {
namespace {

void check_sample(const LayerLoads& loads, int top_k) {
  if (top_k < 1 || loads.sample_TK.size() % static_cast<std::size_t>(top_k) != 0)
    throw Error(Exit::kBadInput, "sample of tokens: expected " + std::to_string(top_k) + " choices a token, found " +
                                     std::to_string(loads.sample_TK.size()) + " in all");
  for (const std::int32_t e : loads.sample_TK)
    if (e < -1 || e >= static_cast<std::int32_t>(loads.load_E.size()))
      throw Error(Exit::kBadInput, "sample of tokens: expected experts 0 to " + std::to_string(loads.load_E.size() - 1) +
                                       ", or -1, found " + std::to_string(e));
}

// touched_N[n] += P(one token touches node n) over the choices of copies: 1 - prod over its experts (1 - share). missed_N
// is 1 everywhere before and after.
void add_token(std::span<const std::int32_t> expert_K, const std::vector<std::vector<Part>>& parts_E,
               std::vector<double>& missed_N, std::vector<double>& touched_N) {
  for (const std::int32_t e : expert_K)
    if (e >= 0)
      for (const Part& p : parts_E[static_cast<std::size_t>(e)]) missed_N[static_cast<std::size_t>(p.at)] *= 1 - p.share;
  for (const std::int32_t e : expert_K)
    if (e >= 0)
      for (const Part& p : parts_E[static_cast<std::size_t>(e)]) {
        double& missed = missed_N[static_cast<std::size_t>(p.at)];
        touched_N[static_cast<std::size_t>(p.at)] += 1 - missed;
        missed = 1;  // a node counts once
      }
}

// Node m sends in proportion to its ranks; a token's own node costs nothing.
NodeRows rows_from(const std::vector<std::vector<double>>& touched_MN, const Topology& topology) {
  const std::vector<int> ranks_N = topology.num_ranks_of_node();
  const std::size_t num_nodes = ranks_N.size();
  NodeRows rows{std::vector<double>(num_nodes), std::vector<double>(num_nodes), 0};
  for (std::size_t from = 0; from < num_nodes; ++from)
    for (std::size_t to = 0; to < num_nodes; ++to) {
      if (to == from) continue;
      const double n = ranks_N[from] * touched_MN[touched_MN.size() == 1 ? 0 : from][to] / topology.num_ranks();
      rows.out_N[from] += n;
      rows.in_N[to] += n;
      rows.total += n;
    }
  return rows;
}

}  // namespace

TouchedNodes counted_touches(const LayerLoads& loads, int top_k, int num_nodes) {
  check_sample(loads, top_k);
  return [&loads, top_k, num_nodes](const std::vector<std::vector<Part>>& parts_E) {
    std::vector<double> touched_N(static_cast<std::size_t>(num_nodes)), missed_N(static_cast<std::size_t>(num_nodes), 1);
    const std::size_t k = static_cast<std::size_t>(top_k), num_tokens = loads.sample_TK.size() / k;
    for (std::size_t t = 0; t < num_tokens; ++t)
      add_token(std::span(loads.sample_TK).subspan(t * k, k), parts_E, missed_N, touched_N);
    for (double& touched : touched_N) touched /= static_cast<double>(num_tokens);
    return touched_N;
  };
}

NodeRows node_rows_per_token(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                             ReplicaChoice choice) {
  check_loads(loads.load_E);
  check_placement(placed, loads.load_E.size(), topology);
  const bool one_node = topology.num_nodes() == 1;
  if (!one_node && loads.sample_TK.empty() && (loads.coactivation_EE.empty() || top_k < 1))
    return {{}, {}, std::numeric_limits<double>::quiet_NaN()};
  if (one_node) return {{0}, {0}, 0};
  const TouchedNodes touched = loads.sample_TK.empty() ? estimated_touches(loads, top_k, topology.num_nodes())
                                                       : counted_touches(loads, top_k, topology.num_nodes());
  const std::vector<std::vector<int>> ranks_E = expert_ranks(placed, loads.load_E.size());
  const bool copies = std::any_of(ranks_E.begin(), ranks_E.end(), [](const auto& ranks) { return ranks.size() > 1; });
  const bool same_for_all = choice == ReplicaChoice::kSpread || !copies;
  std::vector<std::vector<double>> touched_MN;
  for (int source = 0; source < (same_for_all ? 1 : topology.num_nodes()); ++source) {
    std::vector<std::vector<Part>> parts_E;
    for (const std::vector<int>& ranks : ranks_E) parts_E.push_back(parts_by_node(ranks, source, topology, choice));
    touched_MN.push_back(touched(parts_E));
  }
  return rows_from(touched_MN, topology);
}

double busiest_link_rows(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                         ReplicaChoice choice) {
  const auto fullest = [&](const LayerLoads& of) {
    const NodeRows rows = node_rows_per_token(placed, of, top_k, topology, choice);
    if (std::isnan(rows.total)) return rows.total;
    return std::max(*std::max_element(rows.in_N.begin(), rows.in_N.end()),
                    *std::max_element(rows.out_N.begin(), rows.out_N.end()));
  };
  const std::vector<std::int64_t>& psum = loads.psum_sample_S1;
  if (psum.size() <= 2) return fullest(loads);
  double sum = 0;
  LayerLoads step{.load_E = loads.load_E};
  for (std::size_t s = 0; s + 1 < psum.size(); ++s) {
    if (psum[s] == psum[s + 1]) continue;
    step.sample_TK.assign(loads.sample_TK.begin() + psum[s] * top_k, loads.sample_TK.begin() + psum[s + 1] * top_k);
    sum += fullest(step) * static_cast<double>(psum[s + 1] - psum[s]);
  }
  return sum / static_cast<double>(psum.back());
}

double inter_node_rows_per_token(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                                 ReplicaChoice choice) {
  return node_rows_per_token(placed, loads, top_k, topology, choice).total;
}

}  // namespace moe
