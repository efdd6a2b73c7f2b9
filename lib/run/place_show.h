// moe-place show PLAN|ROUTING: tables, a heat map for the terminal, pictures (SVG, HTML). Not here: the figures themselves
// (lib/place/score.h).
#pragma once

#include <string>

#include "lib/base/error.h"
#include "lib/run/place_input.h"

namespace moe {

struct PlaceShowOptions {
  std::string svg, html;  // files to write
};
void add_place_show_options(Options& options, PlaceShowOptions& show);

// `path`: a plan (with --routing or --loads also its load), routing statistics or a trace.
Exit place_show(const std::string& path, const PlaceInputs& inputs, const PlaceShowOptions& show,
                const CommonOptions& common, const Invocation& invocation);

}  // namespace moe
