// moe-place init, move, swap, add, remove, pin, unpin, set, check, diff, export and import: plans made and changed by hand.
// Not here: the solver (place_solve.h), figures (place_score.h), pictures (place_show.h), the text forms (place_text.h).
#pragma once

#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/run/place_input.h"

namespace moe {

// The first four have options of their own; the others are those of solve and score, which place.cpp hands over.
struct PlaceEditOptions {
  std::string like;               // init, import, check: a plan, routing file or checkpoint to take layers and experts from
  int num_experts = 0;            // init, import: without --like
  std::string layers;             // init, import: how many, or which
  std::string format;             // export, import: csv, json, eplb, vllm, sglang; "" by the file's name
  bool allow_faults = false;      // write a plan that check does not pass
  std::string memory_per_rank;    // check: most bytes of experts on a rank
  std::int64_t expert_bytes = 0;  // check, diff: of one expert with its training state; 0: not counted
  int num_groups = 1;             // check: routing groups that must stay in one node
  double inter_mbit = 0;          // diff: bandwidth of a node's link, for the time
};
void add_place_edit_options(Options& options, PlaceEditOptions& edit);

// True for the names of the commands above.
bool is_place_edit_command(const std::string& command);
// `words` is what follows the command. check: Exit 3 with all faults; diff: 3 if they differ.
Exit place_edit(const std::string& command, const std::vector<std::string>& words, const PlaceInputs& inputs,
                const PlaceEditOptions& edit, const CommonOptions& common, const Invocation& invocation);

}  // namespace moe
