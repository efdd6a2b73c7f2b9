#include "lib/run/place.h"

namespace moe {
namespace {

[[noreturn]] void refuse_command(const std::string& word) {
  const std::string near = nearest_name(word, {"show", "solve", "score", "init", "move", "swap", "add", "remove", "pin",
                                               "unpin", "set", "check", "diff", "export", "import"});
  throw Error(Exit::kUsage, "expected a command, found '" + word + "'",
              near.empty() ? "see --help" : "did you mean " + near + "?");
}

// One option, several commands: what solve and score are told of experts, memory and links also counts for the other
// commands.
void share_options(PlaceOptions& p) {
  p.edit.memory_per_rank = p.solve.memory_per_rank;
  p.edit.expert_bytes = p.solve.expert_bytes;
  p.show.expert_bytes = p.solve.expert_bytes;
  p.edit.num_groups = p.solve.groups;
  p.edit.inter_mbit = p.score.inter_mbit;
}

}  // namespace

Options place_options(PlaceOptions& p) {
  Options o("moe-place", "see, plan, edit and prove where experts live",
            {
                "moe-place init linear --experts 8 --layers 4 --topology \"node:2 rank:2\" -o plan.h5",
                "moe-place move plan.h5 all 3 2 -o edited.h5",
                "moe-place export edited.h5 -o edited.csv",
                "moe-place import edited.csv -o again.h5",
                "moe-place check again.h5",
                "moe-place diff edited.h5 again.h5",
                "moe-place show plan.h5 --svg plan.svg",
                "moe-place solve run/routing.h5 --topology \"node:2 rank:2\" --replicas 4 -o solved.h5",
                "moe-place score solved.h5 --routing run/routing.h5",
            });
  o.group("Commands");
  o.add(
       "command", p.arguments,
       "show PLAN|ROUTING, solve [ROUTING], score PLAN, init linear|round-robin|random, move PLAN LAYER EXPERT [FROM] TO, "
       "swap PLAN LAYER A B [RANK_A RANK_B], add PLAN LAYER EXPERT RANK, remove PLAN LAYER EXPERT [RANK], pin PLAN LAYER "
       "EXPERT [RANK], unpin PLAN LAYER EXPERT [RANK], set PLAN LAYER RANK EXPERTS [RANK EXPERTS]..., check PLAN, diff A B, "
       "export PLAN, import FILE. LAYER and EXPERT as 3 or 0-2,5; LAYER also all")
      .positional = true;
  add_place_inputs(o, p.inputs);
  add_place_solve_options(o, p.solve);
  add_place_score_options(o, p.score);
  add_place_edit_options(o, p.edit);
  add_place_show_options(o, p.show);
  add_common_options(o, p.common);
  return o;
}

Exit run_place(PlaceOptions& p, const Invocation& invocation) {
  share_options(p);
  const std::vector<std::string>& words = p.arguments;
  if (words.empty()) throw Error(Exit::kUsage, "expected a command, found none", "see --help");
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  if (words[0] == "solve") return place_solve(rest, p.inputs, p.solve, p.score, p.common, invocation);
  if (words[0] == "score" || words[0] == "show") {
    if (rest.size() != 1) throw Error(Exit::kUsage, words[0] + ": expected one file, found " + std::to_string(rest.size()));
    if (words[0] == "score") return place_score(rest[0], p.inputs, p.score, p.common, invocation);
    return place_show(rest[0], p.inputs, p.show, p.common, invocation);
  }
  if (!is_place_edit_command(words[0])) refuse_command(words[0]);
  return place_edit(words[0], rest, p.inputs, p.edit, p.common, invocation);
}

}  // namespace moe
