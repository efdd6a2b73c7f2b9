// Loss and imbalance of several runs over their steps, side by side, as one self-contained SVG. Pure. Not here: one run in
// detail (picture.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

struct RunCurve {
  std::string name;
  std::vector<std::int64_t> step_N;       // ascending
  std::vector<double> loss_N, max_vio_N;  // max_vio: mean over the MoE layers, of a batch; both may be NaN
  double eval_loss = 0;                   // last on held-out text; NaN if there was none
};

// The mean of the last tenth of the steps, of the values that are finite; NaN if there is none.
double end_of(const std::vector<double>& value_N);

std::string draw_curves_svg(const std::string& title, const std::vector<RunCurve>& runs);

}  // namespace moe
