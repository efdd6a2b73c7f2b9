// The picture of a training run as one self-contained SVG: loss over steps on the left, with the learning rate and the
// worst load below it; on the right which experts worked, layer by layer. Pure functions: numbers in, text out.
// Not here: where the numbers come from and where the file goes (lib/run/train.cpp).
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace moe {

// One step of the run. What was not measured is NaN; values that are not finite are left out of the picture.
struct CurvePoint {
  static constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
  std::int64_t step = 0;
  double train_loss = kNone;  // nats per token
  double eval_loss = kNone;
  double lr = kNone;
  double max_vio = kNone;  // largest over the layers of max load / mean load - 1
};

struct LayerLoad {
  int layer = 0;               // index of the block
  std::vector<double> load_E;  // fraction of the routed rows that expert e took, times E: 1 = balanced, 0 = dead
};

struct RunPicture {
  std::string title, subtitle;
  std::vector<CurvePoint> points;  // ascending steps
  double unigram_entropy = 0;    // of the training tokens, nats per token; 0 = unknown
  std::vector<LayerLoad> load;   // one per MoE layer; empty for a dense model
};

std::string draw_run_svg(const RunPicture& run);

}  // namespace moe
