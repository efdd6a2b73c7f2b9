// The picture of a scaling law as one self-contained SVG: runs, law, band and the predicted run, both axes logarithmic.
// Pure. Not here: where the file goes (eval_scaling.cpp).
#pragma once

#include <string>
#include <vector>

#include "lib/run/scaling_law.h"

namespace moe {

struct ScalingPicture {
  std::string title, subtitle;
  std::vector<std::string> names;    // of the runs
  std::vector<ScalingPoint> points;  // ascending compute
  double predicted_flop = 0;
  double probability = 0.8;  // of the band
  std::string loss_name;     // of the vertical axis
};

std::string draw_scaling_svg(const ScalingPicture& picture, const ScalingFit& fit);

}  // namespace moe
