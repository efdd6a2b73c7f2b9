// moe-place score PLAN --routing R: what a plan brings, and how soon it is stale. Not here: the formulas
// (lib/place/score.h).
#pragma once

#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/run/place_input.h"

namespace moe {

struct PlaceScoreOptions {
  int windows = 0;            // cut the recorded steps into so many windows; 0: all at once
  double stale_percent = 10;  // a plan is stale when its max over mean is so much above that of the first window
  double row_us = 0;          // cost model, as moe-bench dispatch prints it: an expert's work on a row, forward and backward
  std::int64_t row_bytes = 0;  // sent for a row, all four ways
  double inter_mbit = 0;       // bandwidth of a node's link
  std::int64_t tokens_per_step = 0;
  double other_ms = 0;  // of a step that no placement changes
};
void add_place_score_options(Options& options, PlaceScoreOptions& score);
// Error(kUsage) for a part that says nothing without another.
CostModel cost_model(const PlaceScoreOptions& score);

Exit place_score(const std::string& plan, const PlaceInputs& inputs, const PlaceScoreOptions& score,
                 const CommonOptions& common, const Invocation& invocation);

}  // namespace moe
