#include "lib/place/score.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/base/error.h"
#include "lib/place/score_parts.h"

namespace moe {
namespace {

// Ranks wait for the slowest in its experts' work, and each of the exchanges takes as long as its fullest link: out of the
// sender in dispatch is into it in combine, so every exchange has the same fullest direction.
double layer_seconds(const LayerScore& s, double rows_per_token, const CostModel& cost, double tokens) {
  const double balance = std::isnan(s.step_max_over_mean) ? s.max_over_mean : s.step_max_over_mean;
  const double rows = tokens * rows_per_token / static_cast<double>(s.rank_load_R.size()) * balance;
  double seconds = cost.seconds_per_row > 0 ? rows * cost.seconds_per_row : 0;
  if (cost.inter_node_bytes_per_second > 0) {
    seconds += tokens * s.busiest_link_rows * cost.row_bytes / cost.inter_node_bytes_per_second;
  }
  return seconds;
}

LayerScore score_layer(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                       const CostModel& cost, double tokens, ReplicaChoice choice) {
  LayerScore s;
  s.rank_load_R = rank_loads(placed, loads, topology, choice);
  s.max_over_mean = max_over_mean(s.rank_load_R);
  s.step_max_over_mean = step_max_over_mean(placed, loads, topology, choice);
  s.lower_bound = lower_bound(loads.load_E, placed.num_slots(), topology.num_ranks());
  NodeRows rows = node_rows_per_token(placed, loads, top_k, topology, choice);
  s.inter_node_rows_per_token = rows.total;
  s.node_rows_in_N = std::move(rows.in_N);
  s.node_rows_out_N = std::move(rows.out_N);
  s.busiest_link_rows = busiest_link_rows(placed, loads, top_k, topology, choice);
  const double sum = std::accumulate(loads.load_E.begin(), loads.load_E.end(), 0.0);
  const double rows_per_token = loads.num_tokens > 0 ? sum / loads.num_tokens : top_k > 0 ? top_k : std::nan("");
  s.seconds = layer_seconds(s, rows_per_token, cost, tokens);
  return s;
}

template <class Field>
double mean_of(const std::vector<LayerScore>& layers, Field field) {
  double sum = 0;
  for (const LayerScore& s : layers) sum += field(s);
  return sum / static_cast<double>(layers.size());
}

// The source of a copy for `to`: a rank of its node, else the lowest.
int nearest_holder(const std::vector<int>& ranks, int to, const Topology& topology) {
  const auto near = std::find_if(ranks.begin(), ranks.end(), [&](int r) {
    return topology.rank2node[static_cast<std::size_t>(r)] == topology.rank2node[static_cast<std::size_t>(to)];
  });
  return near != ranks.end() ? *near : ranks.front();
}

}  // namespace

PlanScore score(const Placement& placement, const Loads& loads, const Topology& topology, const CostModel& cost,
                double tokens_per_step, ReplicaChoice choice) {
  if (placement.layers != loads.layers || placement.num_experts != loads.num_experts)
    throw Error(Exit::kBadInput, "placement: expected the layers and experts of the loads, found others");
  PlanScore plan;
  for (std::size_t i = 0; i < placement.placed.size(); ++i)
    plan.of_layer.push_back(
        score_layer(placement.placed[i], loads.of_layer[i], loads.top_k, topology, cost, tokens_per_step, choice));
  if (plan.of_layer.empty()) return plan;
  const std::vector<LayerScore>& layers = plan.of_layer;
  plan.mean_max_over_mean = mean_of(layers, [](const LayerScore& s) { return s.max_over_mean; });
  plan.mean_step_max_over_mean = mean_of(layers, [](const LayerScore& s) { return s.step_max_over_mean; });
  plan.inter_node_rows_per_token = mean_of(layers, [](const LayerScore& s) { return s.inter_node_rows_per_token; });
  plan.seconds = mean_of(layers, [](const LayerScore& s) { return s.seconds; }) * static_cast<double>(layers.size());
  for (const LayerScore& s : layers) plan.worst_max_over_mean = std::max(plan.worst_max_over_mean, s.max_over_mean);
  return plan;
}

std::vector<Move> moves(const Placement& before, const Placement& after, const Topology& topology) {
  if (before.layers != after.layers || before.num_experts != after.num_experts)
    throw Error(Exit::kBadInput, "moves: expected two placements of the same layers and experts, found others");
  std::vector<Move> list;
  for (std::size_t i = 0; i < after.placed.size(); ++i) {
    check_placement(before.placed[i], static_cast<std::size_t>(before.num_experts), topology);
    check_placement(after.placed[i], static_cast<std::size_t>(after.num_experts), topology);
    const auto held_E = expert_ranks(before.placed[i], static_cast<std::size_t>(before.num_experts));
    for (int to = 0; to < after.num_ranks(); ++to) {
      std::vector<int> wanted = after.placed[i].rank2experts[static_cast<std::size_t>(to)];
      std::sort(wanted.begin(), wanted.end());
      wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
      for (const int e : wanted) {
        const std::vector<int>& held = held_E[static_cast<std::size_t>(e)];
        if (std::find(held.begin(), held.end(), to) == held.end())
          list.push_back({after.layers[i], e, nearest_holder(held, to, topology), to});
      }
    }
  }
  return list;
}

}  // namespace moe
