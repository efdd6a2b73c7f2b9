// A heat map of loads, layer x rank or layer x expert, and its form for a terminal: one character (or a figure, where there
// is room) per cell, neighbours folded until it fits. Pure. Not here: pictures (place_show_picture.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace moe {

struct HeatMap {
  std::string title;                          // "linear", "this plan"
  std::string column;                         // what a column is: "rank", "expert"
  std::vector<int> layers;                    // the model's indices
  std::vector<std::vector<double>> value_LC;  // load over the mean of the layer: 1 is balanced; NaN not known
  std::vector<int> column2node;               // ascending; empty: no nodes
  std::vector<double> bound_L;                // no placement has a smaller maximum; may be empty
  std::function<std::string(std::size_t layer, std::size_t column)> cell_title;  // may be empty
};

// Colours of one scale: full from `most` times the mean on, and from the mean over `most` on.
struct HeatScale {
  double most = 2;
  double position(double value) const;  // -1 .. 1, 0: the mean; value > 0
};
HeatScale heat_scale(const std::vector<const HeatMap*>& maps);  // the smallest round one that holds their largest value

inline constexpr std::size_t kHeatColumns = 120;  // of the terminal
inline constexpr std::size_t kHeatLines = 64;     // more layers than that are folded too

// What it shows, a legend, a line per layer with its largest value and where that is. `color`: background colours of a
// terminal of 256 colours.
std::string heat_text(const HeatMap& map, bool color);

}  // namespace moe
