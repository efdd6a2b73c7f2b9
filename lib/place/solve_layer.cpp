#include "lib/place/solve_layer.h"

#include <algorithm>
#include <numeric>
#include <string>

#include "lib/base/error.h"
#include "lib/place/solve_search.h"
#include "lib/place/solve_start.h"

namespace moe {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

int sum(const std::vector<int>& list) { return std::accumulate(list.begin(), list.end(), 0); }

// The most even numbers of slots that the ranks' limits allow: all ranks have `level` or one less, but for those whose
// limit is lower.
void even_slots(LayerProblem& p, const std::vector<int>& limit_R) {
  const auto room = [&](int level) {
    int n = 0;
    for (const int limit : limit_R) n += std::min(limit, level);
    return n;
  };
  int level = 0;
  while (room(level) < p.num_slots) ++level;
  for (const int limit : limit_R) {
    p.max_slots_R.push_back(std::min(limit, level));
    p.min_slots_R.push_back(std::min(limit, room(level) == p.num_slots ? level : level - 1));
  }
}

void set_slots(LayerProblem& p, const SolveRequest& request) {
  std::vector<int> limit_R = request.max_slots_R;
  limit_R.resize(at(request.topology.num_ranks()), p.num_experts());
  for (int& limit : limit_R) limit = std::clamp(limit, 0, p.num_experts());
  if (sum(limit_R) < p.num_slots)
    throw Error(Exit::kUsage,
                "expected room for " + std::to_string(p.num_slots) + " slots of a layer on " +
                    std::to_string(limit_R.size()) + " ranks, found " + std::to_string(sum(limit_R)),
                "more ranks or memory, or fewer replicas; no rank takes two copies of an expert");
  if (request.even) return even_slots(p, limit_R);
  p.max_slots_R = std::move(limit_R);
  p.min_slots_R.assign(p.max_slots_R.size(), 0);
}

void set_pins(LayerProblem& p, int layer, const SolveRequest& request) {
  std::vector<int> pinned_R(p.max_slots_R.size());
  for (const Pin& pin : request.pins) {
    if (pin.layer != layer) continue;
    if (pin.expert < 0 || pin.expert >= p.num_experts() || pin.rank < 0 || pin.rank >= p.num_ranks())
      throw Error(Exit::kUsage, "pin: expected an expert below " + std::to_string(p.num_experts()) + " and a rank below " +
                                    std::to_string(p.num_ranks()) + ", found expert " + std::to_string(pin.expert) +
                                    " on rank " + std::to_string(pin.rank));
    const std::pair<int, int> one(pin.rank, pin.expert);
    if (std::find(p.pins.begin(), p.pins.end(), one) != p.pins.end()) continue;
    p.pins.push_back(one);
    if (++pinned_R[at(pin.rank)] > p.max_slots_R[at(pin.rank)])
      throw Error(Exit::kUsage, "layer " + std::to_string(layer) + ", rank " + std::to_string(pin.rank) +
                                    ": expected at most " + std::to_string(p.max_slots_R[at(pin.rank)]) +
                                    " pinned experts, found more");
  }
}

std::vector<int> copies_to_start(const LayerProblem& p) {
  std::vector<int> pinned_E(p.load_E.size());
  for (const auto& [rank, expert] : p.pins) ++pinned_E[at(expert)];
  return water_fill(p.load_E, pinned_E, p.num_slots, p.num_ranks());
}

// An old placement is kept unless starting anew makes the worst rank lighter by more than this.
constexpr double kWorthStartingAnew = 1e-3;

}  // namespace

LayerProblem layer_problem(const Loads& loads, std::size_t i, const SolveRequest& request) {
  LayerProblem p;
  p.load_E = loads.of_layer[i].load_E;
  p.num_slots = request.num_slots > 0 ? request.num_slots : p.num_experts();
  if (p.num_slots < p.num_experts())
    throw Error(Exit::kUsage, "expected at least " + std::to_string(p.num_experts()) +
                                  " slots of a layer, one per expert, found " + std::to_string(p.num_slots));
  set_slots(p, request);
  set_pins(p, loads.layers[i], request);
  if (request.from != nullptr) p.old = request.from->placed[i];
  return p;
}

double enough_load(const LayerProblem& p) {
  const double mean = std::accumulate(p.load_E.begin(), p.load_E.end(), 0.0) / p.num_ranks();
  const int least = *std::min_element(p.min_slots_R.begin(), p.min_slots_R.end());
  return lower_bound(p.load_E, p.num_slots, p.num_ranks(), least) * mean * (1 + 1e-4);
}

LayerPlacement balance_layer(const LayerProblem& problem, int num_kicks, const Stop& stop) {
  const Effort effort{enough_load(problem), num_kicks, stop};
  if (problem.old.num_ranks() == 0) {
    Packing p = longest_first(problem, copies_to_start(problem));
    improve(p, effort);
    return p.placement();
  }
  Packing kept = from_old(problem);
  improve(kept, effort);
  if (kept.max_load() <= effort.target) return kept.placement();
  Packing anew = longest_first(problem, copies_to_start(problem));
  improve(anew, effort);
  return (anew.max_load() < kept.max_load() * (1 - kWorthStartingAnew) ? anew : kept).placement();
}

namespace {

// How many slots each node fills: what its experts and its ranks need at least, the rest where load per slot is largest.
std::vector<int> slots_of_nodes(const LayerProblem& p, const Topology& topology, const std::vector<NodePart>& part_N) {
  std::vector<int> least_N(part_N.size()), most_N(part_N.size()), ranks_N(part_N.size());
  for (int r = 0; r < p.num_ranks(); ++r) {
    const std::size_t n = at(topology.rank2node[at(r)]);
    least_N[n] += p.min_slots_R[at(r)];
    most_N[n] += p.max_slots_R[at(r)];
    ++ranks_N[n];
  }
  std::vector<double> load_N;
  for (std::size_t n = 0; n < part_N.size(); ++n) {
    const NodePart& part = part_N[n];
    load_N.push_back(std::accumulate(part.load.begin(), part.load.end(), 0.0));
    const int num_experts = static_cast<int>(part.experts.size());
    if (!part.num_copies.empty()) least_N[n] = sum(part.num_copies);
    least_N[n] = std::max(least_N[n], num_experts);
    most_N[n] = std::min(most_N[n], part.num_copies.empty() ? num_experts * ranks_N[n] : least_N[n]);
    if (least_N[n] > most_N[n])
      throw Error(Exit::kUsage, "node " + std::to_string(n) + ": expected room for the " + std::to_string(num_experts) +
                                    " experts of its groups, with copies for each rank's slots, found " +
                                    std::to_string(most_N[n]) + " slots for " + std::to_string(least_N[n]));
  }
  for (int left = p.num_slots - sum(least_N); left > 0; --left) {
    int best = -1;
    for (std::size_t n = 0; n < part_N.size(); ++n)
      if (least_N[n] < most_N[n] && (best < 0 || load_N[n] / least_N[n] > load_N[at(best)] / least_N[at(best)]))
        best = static_cast<int>(n);
    if (best < 0) break;
    ++least_N[at(best)];
  }
  if (sum(least_N) != p.num_slots)
    throw Error(Exit::kUsage,
                "groups kept in nodes: expected " + std::to_string(p.num_slots) + " slots, found room for " +
                    std::to_string(sum(least_N)),
                "other replicas, or nodes of equal size");
  return least_N;
}

// The part of the problem on the ranks of node n, experts and ranks renumbered from 0.
LayerProblem node_problem(const LayerProblem& p, const Topology& topology, const NodePart& part, int n, int num_slots) {
  LayerProblem sub;
  sub.load_E = part.load;
  sub.num_slots = num_slots;
  const auto expert_here = [&](int e) {
    const auto found = std::find(part.experts.begin(), part.experts.end(), e);
    return found == part.experts.end() ? -1 : static_cast<int>(found - part.experts.begin());
  };
  for (int r = 0; r < p.num_ranks(); ++r) {
    if (topology.rank2node[at(r)] != n) continue;
    const int here = sub.num_ranks();
    sub.min_slots_R.push_back(p.min_slots_R[at(r)]);
    sub.max_slots_R.push_back(std::min(p.max_slots_R[at(r)], sub.num_experts()));
    for (const auto& [rank, expert] : p.pins)
      if (rank == r && expert_here(expert) >= 0) sub.pins.emplace_back(here, expert_here(expert));
    if (p.old.num_ranks() == 0) continue;
    auto& old = sub.old.rank2experts.emplace_back();
    for (const int e : p.old.rank2experts[at(r)])
      if (expert_here(e) >= 0) old.push_back(expert_here(e));
  }
  return sub;
}

}  // namespace

LayerPlacement balance_nodes(const LayerProblem& problem, const Topology& topology, const std::vector<NodePart>& part_N,
                             int num_kicks, const Stop& stop) {
  const std::vector<int> slots_N = slots_of_nodes(problem, topology, part_N);
  LayerPlacement all;
  for (int n = 0; n < topology.num_nodes(); ++n) {
    const NodePart& part = part_N[at(n)];
    const LayerProblem sub = node_problem(problem, topology, part, n, slots_N[at(n)]);
    LayerPlacement placed;
    if (part.num_copies.empty()) {
      placed = balance_layer(sub, num_kicks, stop);
    } else {
      Packing p = longest_first(sub, part.num_copies);
      improve(p, {enough_load(sub), num_kicks, stop, false});
      placed = p.placement();
    }
    for (std::vector<int>& experts : placed.rank2experts) {
      for (int& e : experts) e = part.experts[at(e)];
      std::sort(experts.begin(), experts.end());
      all.rank2experts.push_back(std::move(experts));
    }
  }
  return all;
}

}  // namespace moe
