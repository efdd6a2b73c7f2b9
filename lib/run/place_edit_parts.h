// What the editing commands of moe-place share: lists of numbers, opening a plan in any form, saving a changed one.
#pragma once

#include <string>
#include <vector>

#include "lib/run/place_edit.h"
#include "lib/run/place_text.h"

namespace moe {

// Error(kUsage) naming `what`.
int parse_count(const std::string& text, const std::string& what, int most);                 // 1 to most
int parse_index(const std::string& text, const std::string& what, int most);                 // 0 to most
std::vector<int> parse_indices(const std::string& text, const std::string& what, int most);  // "0-3,7", as it is written
std::vector<int> parse_layer_option(const std::string& text);  // "4": 0 to 3; "1-3,7"; "": none

// Everything that a command was called with.
struct EditCall {
  const std::string& command;
  const std::vector<std::string>& words;  // behind the command
  const PlaceInputs& inputs;
  const PlaceEditOptions& edit;
  const CommonOptions& common;
  const Invocation& invocation;
};
// Error(kUsage) unless least <= number of words <= most; `usage` says what they are.
void need_words(const EditCall& call, std::size_t least, std::size_t most, const std::string& usage);

struct OpenedPlan {
  std::string path;
  PlanFile plan;
  std::string digest;  // of the file
};
// A plan file or a text form, faults and all; `facts` where the form leaves them open.
OpenedPlan open_plan(const std::string& path, const std::string& format, const PlanFacts& facts);
OpenedPlan open_plan(const EditCall& call, const std::string& path);
// What --topology, --experts, --layers and --like say.
PlanFacts facts_of(const EditCall& call);

// To -o, or over `from` with --force; nothing with --dry-run. Error 65 for a plan with faults, but with --allow-faults.
// `from` is null for a new plan. Returns the line that says so.
std::string save_plan(const EditCall& call, PlanFile plan, const OpenedPlan* from);
std::string size_text(const PlanFile& plan);  // "4 layers x 8 experts in 8 slots on 4 ranks of 2 nodes"

// The commands; command names of several are in EditCall.
Exit init_plan(const EditCall& call);
Exit change_plan(const EditCall& call);  // move, swap, add, remove, pin, unpin, set
Exit check_plan(const EditCall& call);
Exit diff_plans(const EditCall& call);
Exit export_plan(const EditCall& call);
Exit import_plan(const EditCall& call);

}  // namespace moe
