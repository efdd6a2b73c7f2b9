// moe-place solve: loads and a topology in, a plan file and its figures out. Not here: the solvers (lib/place).
#pragma once

#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/place/solve.h"
#include "lib/run/place_input.h"
#include "lib/run/place_score.h"

namespace moe {

struct PlaceSolveOptions {
  std::string policy = "own";  // own, eplb, linear
  Objective objective = Objective::kBalance;
  int replicas = 0;  // slots beyond one per expert, of a layer
  int groups = 1;    // routing groups, for eplb and for --keep-groups
  bool keep_groups = false;
  std::string from;               // an old plan
  std::string move_budget;        // bytes, as 512M; "": any
  std::string memory_per_rank;    // bytes of experts, all layers; "": any
  std::int64_t expert_bytes = 0;  // of one expert with its training state
  double balance_limit = 1.2;
  double seconds = 0;
};
void add_place_solve_options(Options& options, PlaceSolveOptions& solve);

// Writes inputs.output if it is given. Prints lower bound, achieved, gap, moved bytes; --json: {layers: [{layer, phy2log,
// max_over_mean, lower_bound}], moved_bytes, inter_node_rows_per_token, ...}.
// `words`: a file of routing, if it is not in `inputs`. `costs`: for times.
Exit place_solve(const std::vector<std::string>& words, PlaceInputs inputs, const PlaceSolveOptions& solve,
                 const PlaceScoreOptions& costs, const CommonOptions& common, const Invocation& invocation);

}  // namespace moe
