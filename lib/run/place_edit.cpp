#include "lib/run/place_edit.h"

#include <map>

#include "lib/run/place_edit_parts.h"

namespace moe {
namespace {

using Command = Exit (*)(const EditCall&);
const std::map<std::string, Command>& commands() {
  static const std::map<std::string, Command> all = {
      {"init", init_plan},     {"move", change_plan}, {"swap", change_plan},   {"add", change_plan},
      {"remove", change_plan}, {"pin", change_plan},  {"unpin", change_plan},  {"set", change_plan},
      {"check", check_plan},   {"diff", diff_plans},  {"export", export_plan}, {"import", import_plan},
  };
  return all;
}

}  // namespace

void add_place_edit_options(Options& o, PlaceEditOptions& e) {
  o.group("Plans by hand");
  o.add("like", e.like,
        "plan, routing file or checkpoint to take layers and experts from (init, import), or that a plan must fit, pins "
        "included (check)")
      .value = "FILE";
  o.add("experts", e.num_experts, "of a layer (init, import); 0 as --like or the file says");
  o.add("layers", e.layers, "how many layers with experts, or which, as 1-60 (init, import)").value = "N|LIST";
  o.add("format", e.format, "of export and import: csv, json, eplb, vllm, sglang; else by the file's name").value = "NAME";
  o.add("allow-faults", e.allow_faults, "also write a plan that check does not pass, on the way to one that it does");
}

bool is_place_edit_command(const std::string& command) { return commands().contains(command); }

Exit place_edit(const std::string& command, const std::vector<std::string>& words, const PlaceInputs& inputs,
                const PlaceEditOptions& edit, const CommonOptions& common, const Invocation& invocation) {
  return commands().at(command)({command, words, inputs, edit, common, invocation});
}

}  // namespace moe
