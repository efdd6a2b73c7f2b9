#include "lib/run/place_edit_parts.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "lib/base/provenance.h"
#include "lib/base/text_list.h"
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/h5.h"
#include "lib/run/inspect_parts.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr int kMost = (1 << 20) - 1;
constexpr std::int64_t kTextLimit = 256 << 20;

int parse_number(const std::string& text, const std::string& what, int least, int most) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < least || value > most)
    throw Error(Exit::kUsage, what + ": expected a number from " + std::to_string(least) + " to " + std::to_string(most) +
                                  ", found '" + text.substr(0, 40) + "'");
  return value;
}

// Layers and experts of a checkpoint or run directory, by the names of its tensors.
PlanFacts facts_of_checkpoint(const std::string& path) {
  const Opened opened = open_manifest(path);
  std::set<int> layers;
  PlanFacts facts;
  for (const ManifestTensor& t : opened.manifest.tensors) {
    if (!is_expert_tensor(t) || !t.name.starts_with("layers.")) continue;
    layers.insert(static_cast<int>(folded_name(t.name).second));
    facts.num_experts = static_cast<int>(t.shape[0]);
  }
  if (layers.empty()) throw Error(Exit::kBadInput, opened.path + ": expected a model with experts, found none");
  facts.layers.assign(layers.begin(), layers.end());
  return facts;
}

PlanFacts facts_of_file(const std::string& path) {
  if (is_directory(path)) return facts_of_checkpoint(path);
  if (!has_h5_signature(path) || h5_kind(path) == "moe-plan") {
    const PlanFile plan = open_plan(path, "", {}).plan;
    return {plan.rank2node, plan.placement.num_experts, plan.placement.layers, false};
  }
  const Loads loads = read_loads(path);
  return {{}, loads.num_experts, loads.layers, false};
}

}  // namespace

int parse_count(const std::string& text, const std::string& what, int most) { return parse_number(text, what, 1, most); }
int parse_index(const std::string& text, const std::string& what, int most) { return parse_number(text, what, 0, most); }

std::vector<int> parse_indices(const std::string& text, const std::string& what, int most) {
  std::vector<int> list;
  for (const std::string& word : split_list(text)) {
    const std::size_t dash = word.find('-');
    const int first = parse_index(word.substr(0, dash), what, most);
    const int last = dash == std::string::npos ? first : parse_index(word.substr(dash + 1), what, most);
    if (last < first) throw Error(Exit::kUsage, what + ": expected a range that rises, found '" + word + "'");
    for (int n = first; n <= last; ++n) list.push_back(n);
  }
  if (std::set<int>(list.begin(), list.end()).size() != list.size())
    throw Error(Exit::kUsage, what + ": expected each number once, found '" + text.substr(0, 60) + "'");
  return list;
}

std::vector<int> parse_layer_option(const std::string& text) {
  if (text.empty()) return {};
  if (text.find_first_of("-,") == std::string::npos)
    return parse_indices("0-" + std::to_string(parse_count(text, "--layers", kMost) - 1), "--layers", kMost);
  std::vector<int> list = parse_indices(text, "--layers", kMost);
  std::sort(list.begin(), list.end());
  return list;
}

void need_words(const EditCall& call, std::size_t least, std::size_t most, const std::string& usage) {
  if (call.words.size() >= least && call.words.size() <= most) return;
  throw Error(Exit::kUsage, call.command + ": expected " + call.command + " " + usage + ", found " +
                                std::to_string(call.words.size()) + " words");
}

OpenedPlan open_plan(const std::string& path, const std::string& format, const PlanFacts& facts) {
  const std::string bytes = read_text_file(path, kTextLimit);
  const std::string digest = xxh3(bytes).hex();
  if (has_h5_signature(path)) return {path, read_plan_file(path, false), digest};
  return {path, parse_plan_text(bytes, path, plan_format(format, path, &bytes), facts), digest};
}

OpenedPlan open_plan(const EditCall& call, const std::string& path) {
  PlanFacts facts;
  if (!call.inputs.topology.empty()) facts.rank2node = parse_topology(call.inputs.topology).rank2node;
  facts.num_experts = call.edit.num_experts;
  facts.layers = parse_layer_option(call.edit.layers);
  facts.allow_faults = true;
  return open_plan(path, call.edit.format, facts);
}

PlanFacts facts_of(const EditCall& call) {
  PlanFacts facts;
  if (!call.edit.like.empty()) facts = facts_of_file(call.edit.like);
  if (!call.inputs.topology.empty()) facts.rank2node = parse_topology(call.inputs.topology).rank2node;
  if (call.edit.num_experts < 0) parse_count(std::to_string(call.edit.num_experts), "--experts", kMost);
  if (call.edit.num_experts > 0) facts.num_experts = call.edit.num_experts;
  if (!call.edit.layers.empty()) facts.layers = parse_layer_option(call.edit.layers);
  facts.allow_faults = call.edit.allow_faults;
  return facts;
}

std::string save_plan(const EditCall& call, PlanFile plan, const OpenedPlan* from) {
  const std::string& path = call.inputs.output.empty() && from != nullptr ? from->path : call.inputs.output;
  if (path.empty()) throw Error(Exit::kUsage, call.command + ": expected a plan to write, found none", "-o PLAN");
  if (call.inputs.output.empty() && !call.common.force)
    throw Error(Exit::kUsage, call.command + ": expected -o PLAN for the changed plan, found none",
                "--force changes " + path + " itself");
  if (call.inputs.output.empty() && !has_h5_signature(path))
    throw Error(Exit::kUsage, path + ": expected a plan file to change, found a text", "-o PLAN makes one");
  if (const auto faults = placement_faults(plan.placement); !faults.empty() && !call.edit.allow_faults)
    throw Error(Exit::kBadInput, call.command + ": the plan would have a fault: " + faults_text(faults),
                call.command == "set" ? "several pairs RANK LIST change at once" : "--allow-faults writes it all the same");
  if (call.common.dry_run) return "nothing written (--dry-run)\n";
  std::vector<std::pair<std::string, std::string>> read;
  if (from != nullptr) read.emplace_back(from->path, from->digest);
  plan.provenance = provenance_chain(call.invocation, plan.provenance, read);
  write_plan_file(path, plan, call.common.force, !call.edit.allow_faults);
  return "wrote " + path + "\n";
}

std::string size_text(const PlanFile& plan) {
  const Placement& p = plan.placement;
  int least = INT32_MAX, most = 0;
  for (const LayerPlacement& layer : p.placed) {
    least = std::min(least, layer.num_slots());
    most = std::max(most, layer.num_slots());
  }
  const auto plural = [](int n, const char* one) { return std::to_string(n) + " " + one + (n == 1 ? "" : "s"); };
  return plural(static_cast<int>(p.layers.size()), "layer") + " x " + plural(p.num_experts, "expert") + " in " +
         (least == most ? plural(most, "slot") : std::to_string(least) + " to " + plural(most, "slot")) + " on " +
         plural(p.num_ranks(), "rank") + " of " + plural(plan.rank2node.back() + 1, "node");
}

}  // namespace moe
