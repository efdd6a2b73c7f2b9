// What moe-place score found, and how it is told: text and JSON. Not here: finding it (place_score.cpp,
// place_score_windows.cpp).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/run/place_score.h"

namespace moe {

// One window of the recorded steps. All max over mean are means over layers.
struct ScoreWindow {
  std::int64_t first_step, last_step;
  double plan, worst_layer, linear;  // max over mean
  double fresh;                      // of a plan made of the window before; NaN in the first
  double correlation;                // of expert loads with those of the window before; NaN in the first
  double correlation_with_first;
};
struct ScoreWindows {
  std::vector<ScoreWindow> of_window;
  std::int64_t stale_at = -1;  // first step of the first window that is stale_percent worse than the first one; -1: none
};
// The steps in `num_windows` parts of even length. Error(kUsage) if there are fewer steps, or none (a table).
ScoreWindows score_windows(const PlanFile& plan, const RecordedLoads& recorded, const Topology& topology,
                           const PlaceInputs& inputs, const PlaceScoreOptions& options, const CommonOptions& common);

struct ScoreReport {
  std::string plan_path, loads_path;
  Topology topology;
  ReplicaChoice choice;
  std::vector<int> layers;
  PlanScore plan, linear;  // linear: no copies, experts in the order of their numbers, on the same ranks
  bool has_time = false;
  bool counted = false;  // inter-node rows are counted over recorded decisions, not estimated
  double other_seconds = 0, stale_percent = 0;
  ScoreWindows windows;

  double plan_step() const { return plan.seconds + other_seconds; }
  double linear_step() const { return linear.seconds + other_seconds; }
};
std::string score_text(const ScoreReport& report, bool all_layers);
nlohmann::json score_json(const ScoreReport& report);

}  // namespace moe
