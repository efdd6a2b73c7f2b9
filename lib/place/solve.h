// Our own solver: loads and topology in, placement out. Greedy start, then local search (swaps and ejection chains,
// evaluated incrementally) until nothing improves or the time is up; layers in parallel. Ties go to the lowest index: the
// same input gives the same placement, whatever the number of threads, unless the time ends it. Never two copies of an
// expert on a rank. Not here: EPLB (eplb.h), what figures mean (score.h), files and options (lib/run/place_solve.h).
#pragma once

#include <cstdint>
#include <vector>

#include "lib/base/placement.h"
#include "lib/place/loads.h"
#include "lib/place/score.h"
#include "lib/place/topology.h"

namespace moe {

enum class Objective : std::uint8_t {
  kBalance,  // smallest max over mean of rows per rank
  kTraffic,  // fewest inter-node rows per token, with max over mean at most `balance_limit` where it can be had
  kTime,     // smallest seconds of the cost model
};

struct Pin {
  int layer, expert, rank;  // a copy of the expert stays on the rank; layer: the model's index
};

struct SolveRequest {
  Topology topology;
  Objective objective = Objective::kBalance;
  int num_slots = 0;             // of a layer, all ranks; 0: one per expert
  std::vector<int> max_slots_R;  // most slots of each rank (memory); empty: as even as num_slots allows
  bool even = true;              // every rank has the same number of slots, give or take one
  int num_groups = 1;            // routing groups (contiguous ids), each kept inside one node if `keep_groups`
  bool keep_groups = false;
  std::vector<Pin> pins;
  const Placement* from = nullptr;  // start here, and move at most `move_budget` copies (-1: any number)
  std::int64_t move_budget = -1;
  double balance_limit = 1.2;
  CostModel cost;
  double tokens_per_step = 0;
  ReplicaChoice choice = ReplicaChoice::kSpread;
  double seconds = 0;  // at most so long over all layers; 0: until nothing improves
  int num_threads = 1;
};

// One placement per layer of `loads`. Error(kUsage) if the request cannot be met: it names what and by how much.
Placement solve(const Loads& loads, const SolveRequest& request);

}  // namespace moe
