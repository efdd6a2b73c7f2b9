#include "lib/run/place.h"

namespace moe {

Options place_options(PlaceOptions& p) {
  Options o("moe-place", "see, plan, edit and prove where experts live",
            {
                "moe-place init linear --experts 8 --layers 4 --topology \"node:2 rank:2\" -o plan.h5",
            });
  o.group("Commands");
  o.add("command", p.arguments,
        "show PLAN|ROUTING, solve [ROUTING], score PLAN, init linear|round-robin|random, move, swap, pin, set, check PLAN, "
        "diff A B, export PLAN, import FILE")
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
  const std::vector<std::string>& words = p.arguments;
  if (words.empty()) throw Error(Exit::kUsage, "expected a command, found none", "see --help");
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  if (words[0] == "solve") return place_solve(rest, p.inputs, p.solve, p.common, invocation);
  if (words[0] == "score" || words[0] == "show") {
    if (rest.size() != 1) throw Error(Exit::kUsage, words[0] + ": expected one file, found " + std::to_string(rest.size()));
    if (words[0] == "score") return place_score(rest[0], p.inputs, p.score, p.common, invocation);
    return place_show(rest[0], p.inputs, p.show, p.common, invocation);
  }
  return place_edit(words[0], rest, p.inputs, p.edit, p.common, invocation);
}

}  // namespace moe
