// What a placement brings, predicted from loads: rows per rank, rows that cross nodes, time of the exchange and the experts.
// Pure functions. A token's rows of an expert with copies go to one of them by the rule of the run (ReplicaChoice). All
// refuse loads that are not finite or below 0, a placement that lacks an expert and one of other ranks than the topology
// (Error(kBadInput)). Not here: making placements (solve.h), reading loads.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/placement.h"
#include "lib/place/loads.h"
#include "lib/place/topology.h"

namespace moe {

// Rows per rank, in the unit of load_E. Tokens come from all ranks alike.
std::vector<double> rank_loads(const LayerPlacement& placed, const LayerLoads& loads, const Topology& topology,
                               ReplicaChoice choice = ReplicaChoice::kSpread);
double max_over_mean(const std::vector<double>& load_R);  // 1 when nothing is loaded
// Mean over the recorded steps of max over mean in each, NaN if they are not known: at least that of the mean load, and what
// ranks that wait for each other in every step feel.
double step_max_over_mean(const LayerPlacement& placed, const LayerLoads& loads, const Topology& topology,
                          ReplicaChoice choice = ReplicaChoice::kSpread);

// No placement of num_slots slots on num_ranks ranks has a smaller max over mean, whatever its ReplicaChoice; where every
// rank must have at least `least_slots` of them (even plans: num_slots / num_ranks) the bound may be larger. score_bound.cpp
// proves it.
double lower_bound(const std::vector<double>& load_E, int num_slots, int num_ranks, int least_slots = 0);

// Rows that cross nodes, per token of the group: one per token and distinct node other than its own, since a token crosses
// once per node. Of dispatch; combine goes the other way.
struct NodeRows {
  std::vector<double> in_N, out_N;  // into and out of each node; empty: not known
  double total = 0;                 // sum of in_N, = sum of out_N; NaN: not known
};
// Exact over sample_TK if it is there, else estimated from the co-activation (how and how well, score_estimate.cpp says),
// else not known. Tokens come from all ranks alike; copies are chosen independently of each other.
NodeRows node_rows_per_token(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                             ReplicaChoice choice = ReplicaChoice::kSpread);
double inter_node_rows_per_token(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                                 ReplicaChoice choice = ReplicaChoice::kSpread);  // its total
// Rows per token of the group through the fullest link, into or out of a node: a step waits for it. Where the sample says
// which tokens are of which step, the mean over steps of each one's fullest; else that of the mean. NaN: not known.
double busiest_link_rows(const LayerPlacement& placed, const LayerLoads& loads, int top_k, const Topology& topology,
                         ReplicaChoice choice = ReplicaChoice::kSpread);

// What a step costs in one layer, forward and backward, by the slowest rank and the slowest link.
struct CostModel {
  double seconds_per_row = 0;              // of an expert, forward and backward
  double row_bytes = 0;                    // sent for a row, all of dispatch and combine, forward and backward
  double inter_node_bytes_per_second = 0;  // of a node's link, each direction; 0: not counted
};
struct LayerScore {
  std::vector<double> rank_load_R;
  double max_over_mean = 1, lower_bound = 1;
  double step_max_over_mean = 1;                        // NaN: not known
  double inter_node_rows_per_token = 0;                 // NaN: not known
  double busiest_link_rows = 0;                         // per token; NaN: not known
  std::vector<double> node_rows_in_N, node_rows_out_N;  // NodeRows
  double seconds = 0;  // of one step of `tokens_per_step` tokens of the group, by the cost model; NaN: not known
};
struct PlanScore {
  std::vector<LayerScore> of_layer;
  double mean_max_over_mean = 1, worst_max_over_mean = 1;
  double mean_step_max_over_mean = 1;
  double inter_node_rows_per_token = 0;  // mean over layers
  double seconds = 0;                    // sum over layers
};
PlanScore score(const Placement& placement, const Loads& loads, const Topology& topology, const CostModel& cost,
                double tokens_per_step, ReplicaChoice choice = ReplicaChoice::kSpread);

// What changing from one placement to another moves: copies of experts that a rank gets and did not have.
struct Move {
  int layer, expert, from_rank, to_rank;  // from: the nearest rank that has it (own node first, then lowest); layer: model's
};
std::vector<Move> moves(const Placement& before, const Placement& after, const Topology& topology);

}  // namespace moe
