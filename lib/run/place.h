// moe-place: one options list, and which command gets what. Not here: what the commands do.
#pragma once

#include "lib/run/place_edit.h"
#include "lib/run/place_score.h"
#include "lib/run/place_show.h"
#include "lib/run/place_solve.h"

namespace moe {

struct PlaceOptions {
  CommonOptions common;
  std::vector<std::string> arguments;  // a command and its words
  PlaceInputs inputs;
  PlaceEditOptions edit;
  PlaceShowOptions show;
  PlaceSolveOptions solve;
  PlaceScoreOptions score;
};

Options place_options(PlaceOptions& place);
Exit run_place(PlaceOptions& place, const Invocation& invocation);

}  // namespace moe
