// All figures that moe-place show prints and draws, computed once: of the experts of each layer, and of the ranks under a
// placement and under the linear one. Pure. Not here: words (place_show_text.h), pictures (place_show_picture.h), what the
// scores mean (lib/place/score.h).
#pragma once

#include <string>

#include "lib/io/plan_file.h"
#include "lib/place/loads.h"
#include "lib/place/score.h"
#include "lib/place/topology.h"

namespace moe {

// What was read and asked for. `plan.placement` without layers: the file is no plan. `loads` without layers: not known.
struct ShowSubject {
  std::string path, kind;  // kind: plan, routing
  PlanFile plan;
  Loads loads;
  Topology topology;  // without ranks: not known, then no figure of ranks
  ReplicaChoice choice = ReplicaChoice::kSpread;
  std::int64_t expert_bytes = 0;  // of one copy of an expert; 0: not known
};

// Loads of the experts of one layer over their mean; NaN where nothing is loaded.
struct ExpertFigures {
  double num_tokens, p50, p90, p99, max, max_vio, cv;
  int dead = 0;
  std::vector<double> over_mean_E;
  std::vector<int> hottest;  // all experts, the most loaded first, equal ones by index
};

// One placement: the plan, or the linear one.
struct PlacedFigures {
  std::string name;
  Placement placement;
  std::vector<std::vector<int>> num_copies_LE;
  PlanScore score;                                // without layers: no loads
  std::vector<std::vector<double>> over_mean_LR;  // rows (without loads: slots) of a rank over the mean of its layer
  // Both of the layers for which they are known; NaN if of none.
  double mean_max = 0, worst_max = 0, rows_per_token = 0;
  int worst_layer = 0;  // place in `layers`
};

struct ShowFigures {
  std::vector<int> layers;  // the model's indices
  int num_experts = 0;
  std::vector<ExpertFigures> experts_L;  // empty: no loads
  std::vector<PlacedFigures> placed;     // the plan, then the linear one if it differs and there are loads; or none
};
ShowFigures show_figures(const ShowSubject& subject);

// A copy of an expert that has several, or a pinned slot.
struct ExpertPlaces {
  std::size_t l;  // place in `layers`
  int expert;
  std::vector<int> ranks;
};
std::vector<ExpertPlaces> experts_with_copies(const Placement& placement);  // by layer, then most copies first
std::vector<ExpertPlaces> pinned_experts(const PlanFile& plan);             // by layer, then expert

std::size_t place_of_max(const std::vector<double>& values);  // the first of them; NaN is skipped; 0 if all are

// "0.98", and "-" for what is not known.
std::string figure_text(double x, int decimals = 2);

}  // namespace moe
