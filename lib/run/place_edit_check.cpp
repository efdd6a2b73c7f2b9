// check: all faults of a plan. What it always looks at, what it looks at when asked to, and what it did not look at are
// said. Exit 3 with faults. Not here: whether the plan is good (moe-place score).
#include <algorithm>
#include <map>
#include <set>

#include "lib/base/byte_size.h"
#include "lib/run/place_edit_parts.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

struct Findings {
  std::vector<std::string> faults, checked, left_out;
};

std::string layer_text(int layer) { return "layer " + std::to_string(layer); }
// A faulty plan may name anything.
bool is_expert(const Placement& p, int e) { return e >= 0 && e < p.num_experts; }

void check_memory(const PlanFile& plan, const PlaceEditOptions& edit, Findings& f) {
  if (edit.memory_per_rank.empty() || edit.expert_bytes <= 0) {
    f.left_out.push_back("memory (--memory-per-rank SIZE with --expert-bytes N)");
    return;
  }
  const std::vector<std::int64_t> limit_R =
      parse_byte_sizes(edit.memory_per_rank, "--memory-per-rank", plan.rank2node.size());
  double most = 0;
  for (std::size_t r = 0; r < limit_R.size(); ++r) {
    std::size_t copies = 0;
    for (const LayerPlacement& layer : plan.placement.placed) copies += layer.rank2experts[r].size();
    const double bytes = static_cast<double>(copies) * static_cast<double>(edit.expert_bytes);
    const auto limit = static_cast<double>(limit_R[r]);
    most = std::max(most, bytes);
    if (bytes > limit)
      f.faults.push_back("rank " + std::to_string(r) + ": expected at most " + bytes_text(limit) + " of experts, found " +
                         bytes_text(bytes) + " (" + std::to_string(copies) + " copies)");
  }
  f.checked.push_back("memory of every rank (most: " + bytes_text(most) + ")");
}

// Group g of n has the experts [g E/n, (g+1) E/n): all copies of all of them in one node.
void check_groups(const PlanFile& plan, int num_groups, Findings& f) {
  const Placement& p = plan.placement;
  if (num_groups <= 1) {
    f.left_out.push_back("routing groups (--groups N)");
    return;
  }
  if (p.num_experts % num_groups != 0)
    throw Error(Exit::kUsage, "--groups: expected a divisor of " + std::to_string(p.num_experts) + " experts, found " +
                                  std::to_string(num_groups));
  const int size = p.num_experts / num_groups;
  for (std::size_t l = 0; l < p.layers.size(); ++l) {
    std::map<int, std::set<std::int64_t>> nodes;  // of each group
    for (std::size_t r = 0; r < plan.rank2node.size(); ++r)
      for (const int e : p.placed[l].rank2experts[r])
        if (is_expert(p, e)) nodes[e / size].insert(plan.rank2node[r]);
    for (const auto& [group, where] : nodes)
      if (where.size() > 1)
        f.faults.push_back(layer_text(p.layers[l]) + ": expected group " + std::to_string(group) + " (experts " +
                           std::to_string(group * size) + "-" + std::to_string(group * size + size - 1) +
                           ") in one node, found it in nodes " + ranges_text({where.begin(), where.end()}));
  }
  f.checked.push_back("each of " + std::to_string(num_groups) + " routing groups in one node");
}

// Every pinned copy of `old` is where it was.
void check_pins(const PlanFile& plan, const PlanFile& old, const std::string& path, Findings& f) {
  std::int64_t num_pins = 0;
  for (std::size_t l = 0; l < old.placement.layers.size(); ++l) {
    const std::vector<int> slot2expert = old.placement.placed[l].slot2expert(),
                           slot2rank = old.placement.placed[l].slot2rank();
    for (std::size_t s = 0; s < slot2expert.size(); ++s) {
      if (old.pinned_LS[l][s] == 0) continue;
      ++num_pins;
      const auto rank = static_cast<std::size_t>(slot2rank[s]);
      const std::vector<int> none, &now = rank < plan.rank2node.size() ? plan.placement.placed[l].rank2experts[rank] : none;
      if (std::find(now.begin(), now.end(), slot2expert[s]) == now.end())
        f.faults.push_back(layer_text(old.placement.layers[l]) + ": expected expert " + std::to_string(slot2expert[s]) +
                           " on rank " + std::to_string(rank) + ", where " + path + " pins it, found it elsewhere");
    }
  }
  f.checked.push_back(std::to_string(num_pins) + " pins of " + path);
}

void check_like(const EditCall& call, const PlanFile& plan, Findings& f) {
  const std::string& path = call.edit.like;
  if (path.empty()) {
    f.left_out.push_back("layers, experts and pins of another file (--like FILE)");
    return;
  }
  const PlanFacts like = facts_of(call);
  const auto text = [](const std::vector<int>& n) { return ranges_text({n.begin(), n.end()}); };
  if (like.layers != plan.placement.layers)
    f.faults.push_back("expected layers " + text(like.layers) + " as in " + path + ", found " + text(plan.placement.layers));
  if (like.num_experts != plan.placement.num_experts)
    f.faults.push_back("expected " + std::to_string(like.num_experts) + " experts as in " + path + ", found " +
                       std::to_string(plan.placement.num_experts));
  f.checked.push_back("layers and experts as in " + path);
  if (f.faults.empty() && !like.rank2node.empty() && call.inputs.topology.empty())
    check_pins(plan, open_plan(path, "", {}).plan, path, f);
}

std::string text_of(const OpenedPlan& opened, const Findings& f, bool verbose) {
  constexpr std::size_t kMostLines = 40;
  const auto count = static_cast<std::int64_t>(f.faults.size());
  std::string text = opened.path + ": " +
                     (count == 0 ? "no fault" : thousands(count) + (count == 1 ? " fault" : " faults")) + "\n" +
                     labelled("plan", size_text(opened.plan));
  const std::size_t shown = verbose ? f.faults.size() : std::min(f.faults.size(), kMostLines);
  for (std::size_t i = 0; i < shown; ++i) text += "  " + f.faults[i] + "\n";
  if (shown < f.faults.size()) text += "  and " + std::to_string(f.faults.size() - shown) + " more (-v shows all)\n";
  for (const std::string& what : f.checked) text += labelled("checked", what);
  for (const std::string& what : f.left_out) text += labelled("not checked", what);
  return text;
}

}  // namespace

Exit check_plan(const EditCall& call) {
  need_words(call, 1, 1, "PLAN");
  const OpenedPlan opened = open_plan(call, call.words[0]);
  Findings f;
  f.faults = placement_faults(opened.plan.placement);
  f.checked.push_back("every expert placed in every layer, none twice on a rank, none out of range");
  check_like(call, opened.plan, f);
  check_memory(opened.plan, call.edit, f);
  check_groups(opened.plan, call.edit.num_groups, f);
  print_result(call.common,
               {{"kind", "moe-place check"},
                {"plan", opened.path},
                {"faults", f.faults},
                {"checked", f.checked},
                {"not_checked", f.left_out}},
               text_of(opened, f, call.common.verbose));
  return f.faults.empty() ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
