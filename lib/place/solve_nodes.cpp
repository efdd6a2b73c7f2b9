#include "lib/place/solve_nodes.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "lib/place/solve_start.h"
#include "lib/place/solve_steps.h"

namespace moe {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

struct Exchange {
  double change;
  int e, f;
};

// All exchanges between nodes that might save rows, best first.
std::vector<Exchange> promising(const NodeCounts& counts, const std::vector<bool>& may_E, double least) {
  std::vector<Exchange> list;
  const int num = static_cast<int>(may_E.size());
  for (int e = 0; e < num; ++e)
    for (int f = e + 1; may_E[at(e)] && f < num; ++f) {
      if (!may_E[at(f)] || counts.node_of(e) == counts.node_of(f)) continue;
      const double change = counts.at_best_after_exchange(e, f);
      if (change < -least) list.push_back({change, e, f});
    }
  std::sort(list.begin(), list.end(), [](const Exchange& x, const Exchange& y) {
    return x.change != y.change ? x.change < y.change : (x.e != y.e ? x.e < y.e : x.f < y.f);
  });
  return list;
}

// Exchanges by rounds: each goes once through the promising ones. `allowed` and `done` keep the loads.
void exchange_by_rounds(NodeCounts& counts, const std::vector<bool>& may_E, const Stop& stop,
                        const std::function<bool(int, int)>& allowed, const std::function<void(int, int)>& done) {
  const double least = 1e-9 * (1 + counts.rows());
  for (bool better = true; better;) {
    better = false;
    for (const Exchange& x : promising(counts, may_E, least)) {
      if (stop && stop()) return;
      if (counts.node_of(x.e) == counts.node_of(x.f) || counts.at_best_after_exchange(x.e, x.f) >= -least) continue;
      if (!allowed(x.e, x.f) || counts.after_exchange(x.e, x.f) >= -least) continue;
      done(x.e, x.f);
      counts.exchange(x.e, x.f);
      better = true;
    }
  }
}

// May `more` be added to `load`? Not beyond the limit.
bool fits(double load, double more, double limit) { return more <= 0 || load + more <= limit * (1 + 1e-12); }

}  // namespace

NodeLimits node_limits(const LayerPlacement& placed, const std::vector<double>& load_E, const Topology& topology,
                       double limit) {
  NodeLimits limits{std::vector<double>(at(topology.num_nodes())), {}};
  for (const int ranks : topology.num_ranks_of_node()) limits.limit_N.push_back(limit * ranks);
  std::vector<int> copies(load_E.size());
  for (const int e : placed.slot2expert()) ++copies[at(e)];
  for (int r = 0; r < placed.num_ranks(); ++r)
    for (const int e : placed.rank2experts[at(r)])
      if (copies[at(e)] > 1) limits.fixed_N[at(topology.rank2node[at(r)])] += load_E[at(e)] / copies[at(e)];
  return limits;
}

void exchange_between_nodes(NodeCounts& counts, const std::vector<double>& load_E, const std::vector<bool>& may_E,
                            const NodeLimits& limits, const Stop& stop) {
  std::vector<double> load_N = limits.fixed_N;
  for (std::size_t e = 0; e < load_E.size(); ++e) {
    const int node = counts.node_of(static_cast<int>(e));
    if (node >= 0) load_N[at(node)] += load_E[e];
  }
  const auto allowed = [&](int e, int f) {
    const double d = load_E[at(f)] - load_E[at(e)];
    const std::size_t a = at(counts.node_of(e)), b = at(counts.node_of(f));
    return fits(load_N[a], d, limits.limit_N[a]) && fits(load_N[b], -d, limits.limit_N[b]);
  };
  const auto done = [&](int e, int f) {
    const double d = load_E[at(f)] - load_E[at(e)];
    load_N[at(counts.node_of(e))] += d;
    load_N[at(counts.node_of(f))] -= d;
  };
  exchange_by_rounds(counts, may_E, stop, allowed, done);
}

namespace {

Packing packing_of(const LayerProblem& problem, const LayerPlacement& placed) {
  Packing p(problem);
  for (int r = 0; r < placed.num_ranks(); ++r)
    for (const int e : placed.rank2experts[at(r)]) p.put(r, e);
  return p;
}

// One exchange of the worst rank that makes it lighter, the one that costs fewest rows per load taken off.
bool lighten_worst(Packing& p, NodeCounts& counts, const std::vector<bool>& may_E) {
  const int r = p.worst_rank();
  const double limit = below(p.load_of(r));
  Exchange best{0, -1, -1};
  for (int q = 0; q < p.num_ranks(); ++q)
    for (const int e : p.experts_of(r))
      for (const int f : p.experts_of(q)) {
        const double d = p.copy_load(e) - p.copy_load(f);
        if (q == r || !may_E[at(e)] || !may_E[at(f)] || d <= 0 || p.load_of(q) + d >= limit) continue;
        const bool same_node = counts.node_of(e) == counts.node_of(f);
        const double cost = same_node ? 0 : counts.at_best_after_exchange(e, f) / d;
        if (best.e < 0 || cost < best.change) best = {cost, e, f};
      }
  if (best.e < 0) return false;
  p.exchange(r, best.e, p.ranks_of(best.f)[0], best.f);
  if (counts.node_of(best.e) != counts.node_of(best.f)) counts.exchange(best.e, best.f);
  return true;
}

}  // namespace

void exchange_between_ranks(NodeCounts& counts, const LayerProblem& problem, const std::vector<bool>& may_E, double limit,
                            LayerPlacement& placed, const Stop& stop) {
  Packing p = packing_of(problem, placed);
  while (p.max_load() > limit && !(stop && stop()) && lighten_worst(p, counts, may_E)) {
  }
  const auto rank_of = [&](int e) { return p.ranks_of(e)[0]; };
  const auto allowed = [&](int e, int f) {
    const double d = p.copy_load(f) - p.copy_load(e);
    return fits(p.load_of(rank_of(e)), d, limit) && fits(p.load_of(rank_of(f)), -d, limit);
  };
  exchange_by_rounds(counts, may_E, stop, allowed, [&](int e, int f) { p.exchange(rank_of(e), e, rank_of(f), f); });
  placed = p.placement();
}

bool has_copies(const LayerProblem& problem) { return problem.num_slots > problem.num_experts(); }

LayerPlacement gathered_start(const LayerProblem& problem, const TokenList& tokens, const Topology& topology, double limit) {
  const std::size_t num = problem.load_E.size();
  if (!problem.pins.empty()) return {};
  std::vector<double> together_EE(num * num);
  for (std::size_t t = 0; t < tokens.weight.size(); ++t)
    for (std::size_t i = tokens.start[t]; i < tokens.start[t + 1]; ++i)
      for (std::size_t j = tokens.start[t]; j < tokens.start[t + 1]; ++j)
        together_EE[at(tokens.expert[i]) * num + at(tokens.expert[j])] += tokens.weight[t];
  std::vector<int> left(num);
  std::iota(left.begin(), left.end(), 0);
  std::stable_sort(left.begin(), left.end(), [&](int a, int b) { return problem.load_E[at(a)] > problem.load_E[at(b)]; });
  // Ranks of one node take its experts in the order in which they come: balance follows.
  LayerPlacement placed;
  placed.rank2experts.resize(at(problem.num_ranks()));
  int spare = problem.num_slots - std::accumulate(problem.min_slots_R.begin(), problem.min_slots_R.end(), 0);
  for (int n = 0; n < topology.num_nodes(); ++n) {
    std::vector<double> near_E(num);
    double load = 0, room = limit * topology.num_ranks_of_node()[at(n)];
    for (int r = 0; r < problem.num_ranks(); ++r) {
      if (topology.rank2node[at(r)] != n) continue;
      int slots = problem.min_slots_R[at(r)];
      for (; spare > 0 && slots < problem.max_slots_R[at(r)]; ++slots) --spare;
      while (slots-- > 0 && !left.empty()) {
        auto best = left.end();
        for (auto i = left.begin(); i != left.end(); ++i)
          if (load + problem.load_E[at(*i)] <= room && (best == left.end() || near_E[at(*i)] > near_E[at(*best)])) best = i;
        if (best == left.end()) best = left.end() - 1;  // the lightest: exchanges under the limit mend it or not
        const int e = *best;
        left.erase(best);
        load += problem.load_E[at(e)];
        for (std::size_t f = 0; f < num; ++f) near_E[f] += together_EE[at(e) * num + f];
        placed.rank2experts[at(r)].push_back(e);
      }
    }
  }
  return left.empty() ? placed : LayerPlacement{};
}

}  // namespace moe
