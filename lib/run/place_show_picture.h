// The picture of a placement as one SVG: key figures, one heat map or two beside each other (before, after) on one scale of
// colours, each with the largest value of every layer as bars. Pure: numbers in, text out. Not here: what is compared
// (place_show.cpp), the palette (svg.h).
#pragma once

#include <string>
#include <vector>

#include "lib/run/place_show_heat.h"

namespace moe {

struct KeyFigure {
  std::string name, value, note;
};

struct PlacePicture {
  std::string title, subtitle, unit;  // unit: what a colour means, "rows of a rank / mean of its layer"
  std::vector<KeyFigure> figures;     // at most 5
  std::vector<HeatMap> maps;          // one or two
};

std::string draw_place_svg(const PlacePicture& picture);

}  // namespace moe
