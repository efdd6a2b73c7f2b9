// What moe-place solve says of a plan: figures per layer, as table and JSON. Not here: making the plan (place_solve.h).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/placement.h"
#include "lib/place/score.h"

namespace moe {

struct SolvedPlan {
  Placement placement;
  Topology topology;
  PlanScore score;                         // of the plan
  std::optional<PlanScore> linear;         // of the plan that a run without one has
  std::optional<std::vector<Move>> moves;  // from the old plan, or the linear one
  std::int64_t expert_bytes = 0;           // 0: not known
  std::string policy, objective;
  std::string from;  // path of the old plan
  double seconds = 0;  // that solving took
};

std::string solve_table(const SolvedPlan& solved);
nlohmann::json solve_json(const SolvedPlan& solved);
// What a plan file keeps of it.
nlohmann::json predicted_json(const SolvedPlan& solved);

}  // namespace moe
