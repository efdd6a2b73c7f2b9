// moe-place init, move, swap, pin, set, check, diff, export and import: plans made and changed by hand. Not here: the solver
// (place_solve.h), figures (place_score.h), pictures (place_show.h), the text forms themselves (place_text.h).
#pragma once

#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/run/place_input.h"

namespace moe {

struct PlaceEditOptions {
  std::string like;                     // init: a routing file, checkpoint or plan to take layers and experts from
  std::string order = "linear";         // init: linear, round-robin, random
  int num_layers = 0, num_experts = 0;  // init, without --like
  std::string format;                   // export, import: csv, json, eplb, vllm, sglang; "" by the file's name
  std::string memory_per_rank;          // check: most bytes of experts on a rank
  std::int64_t expert_bytes = 0;        // check, diff: of one expert with its training state; 0: not counted
  int num_groups = 1;                   // check: routing groups that must stay in one node
  double inter_gbit = 0;                // diff: bandwidth between nodes, for the time
};
void add_place_edit_options(Options& options, PlaceEditOptions& edit);

// `command` is one of the above, `words` what follows it. check: Exit 3 with all faults; diff: 3 if they differ.
Exit place_edit(const std::string& command, const std::vector<std::string>& words, const PlaceInputs& inputs,
                const PlaceEditOptions& edit, const CommonOptions& common, const Invocation& invocation);

}  // namespace moe
