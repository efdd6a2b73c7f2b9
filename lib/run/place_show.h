// moe-place show PLAN|ROUTING: tables, a heat map for the terminal, pictures (SVG, HTML). What a file is, is found from its
// content. Not here: the figures (place_show_figures.h), their words (place_show_tables.h) and pictures
// (place_show_picture.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lib/base/error.h"
#include "lib/run/place_input.h"
#include "lib/run/place_show_picture.h"
#include "lib/run/place_show_tables.h"

namespace moe {

struct PlaceShowOptions {
  std::string svg, html;          // files to write
  int layer = -1;                 // the model's index; -1: all
  std::int64_t expert_bytes = 0;  // that of solve (place.cpp): of a copy of an expert, for the memory of ranks; 0: not known
};
void add_place_show_options(Options& options, PlaceShowOptions& show);

// `path`: a plan (with --routing or --loads also its load), routing statistics, a trace or a table of loads.
Exit place_show(const std::string& path, const PlaceInputs& inputs, const PlaceShowOptions& show,
                const CommonOptions& common, const Invocation& invocation);

// The parts of it, pure.
std::string show_text(const ShowSubject& subject, const ShowFigures& figures, bool color, bool verbose);
std::string show_layer_text(const ShowSubject& subject, const ShowFigures& figures, std::size_t l);
nlohmann::json show_json(const ShowSubject& subject, const ShowFigures& figures);
// Of the ranks where they are known (before and after, if the linear placement is another), else of the experts.
PlacePicture show_picture(const ShowSubject& subject, const ShowFigures& figures);
PlacePicture expert_picture(const ShowSubject& subject, const ShowFigures& figures);  // needs loads
// One self-contained file without scripts, well-formed as XML too.
std::string show_html(const ShowSubject& subject, const ShowFigures& figures);
// The columns of the heat map of a placement are ranks, else experts.
HeatMap rank_map(const ShowSubject& subject, const ShowFigures& figures, std::size_t which);
HeatMap expert_map(const ShowFigures& figures);

}  // namespace moe
