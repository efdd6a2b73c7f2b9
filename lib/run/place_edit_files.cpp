// init, export, import: where a plan begins, and its way into text and back. Not here: the text forms (place_text.h).
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/base/rng.h"
#include "lib/io/files.h"
#include "lib/run/place_edit_parts.h"
#include "lib/run/result.h"

namespace moe {
namespace {

// As even as can be; the first ranks get one more.
LayerPlacement round_robin_layer(int num_experts, int num_ranks) {
  LayerPlacement layer{std::vector<std::vector<int>>(static_cast<std::size_t>(num_ranks))};
  for (int e = 0; e < num_experts; ++e) layer.rank2experts[static_cast<std::size_t>(e % num_ranks)].push_back(e);
  return layer;
}

// The sizes of the linear placement; a permutation of its own for each layer, a pure function of seed and layer.
LayerPlacement random_layer(int num_experts, int num_ranks, std::uint64_t seed, int index) {
  const Rng rng(seed, "moe-place init layer " + std::to_string(index));
  LayerPlacement layer = linear_layer(num_experts, num_ranks);
  for (std::vector<int>& experts : layer.rank2experts) {
    for (int& e : experts)
      e = static_cast<int>(permuted_index(rng, static_cast<std::uint64_t>(num_experts), static_cast<std::uint64_t>(e)));
    std::sort(experts.begin(), experts.end());
  }
  return layer;
}

LayerPlacement first_layer(const std::string& order, int num_experts, int num_ranks, std::uint64_t seed, int index) {
  if (order == "linear") return linear_layer(num_experts, num_ranks);
  if (order == "round-robin") return round_robin_layer(num_experts, num_ranks);
  if (order == "random") return random_layer(num_experts, num_ranks, seed, index);
  throw Error(Exit::kUsage, "init: expected linear, round-robin or random, found '" + order + "'");
}

bool has_pins(const PlanFile& plan) {
  return std::any_of(plan.pinned_LS.begin(), plan.pinned_LS.end(), [](const auto& pinned_S) {
    return std::any_of(pinned_S.begin(), pinned_S.end(), [](std::uint8_t p) { return p != 0; });
  });
}

void write_text(const std::string& path, const std::string& text, bool force) {
  PendingFile out(path, force);
  write_text_file(out.temporary_path(), text);
  out.commit();
}

}  // namespace

Exit init_plan(const EditCall& call) {
  need_words(call, 1, 1, "linear|round-robin|random");
  const PlanFacts facts = facts_of(call);
  const auto need = [](bool good, const char* what, const char* hint) {
    if (!good) throw Error(Exit::kUsage, std::string("init: expected ") + what + ", found none", hint);
  };
  need(facts.num_experts > 0, "a number of experts", "--experts N, or --like FILE");
  need(!facts.layers.empty(), "layers", "--layers N, or --like FILE");
  need(!facts.rank2node.empty(), "a topology", "--topology \"node:N rank:R\"");
  PlanFile plan;
  plan.rank2node = facts.rank2node;
  plan.placement = {facts.num_experts, facts.layers, {}};
  for (const int index : facts.layers)
    plan.placement.placed.push_back(
        first_layer(call.words[0], facts.num_experts, static_cast<int>(facts.rank2node.size()), call.common.seed, index));
  plan.pinned_LS.assign(facts.layers.size(), std::vector<std::uint8_t>(static_cast<std::size_t>(facts.num_experts)));
  const std::string saved = save_plan(call, plan, nullptr);
  print_result(call.common, {{"kind", "moe-place init"}, {"plan", call.inputs.output}},
               call.words[0] + ": " + size_text(plan) + "\n" + saved);
  return Exit::kOk;
}

Exit export_plan(const EditCall& call) {
  need_words(call, 1, 1, "PLAN [-o FILE|-]");
  const OpenedPlan opened = open_plan(call.words[0], "", {});
  const std::string path = call.inputs.output.empty() ? "-" : call.inputs.output;
  const PlanFormat format = plan_format(call.edit.format, path);
  const std::string text = plan_text(opened.plan, format, path);
  if (format != PlanFormat::kCsv && format != PlanFormat::kJson && has_pins(opened.plan))
    log_warning("the pins are lost: --format " + call.edit.format + " has none");
  if (path == "-")
    std::fwrite(text.data(), 1, text.size(), stdout);
  else if (!call.common.dry_run)
    write_text(path, text, call.common.force);
  return Exit::kOk;
}

Exit import_plan(const EditCall& call) {
  need_words(call, 1, 1, "FILE -o PLAN");
  const std::string& path = call.words[0];
  const PlanFacts facts = facts_of(call);
  OpenedPlan opened = open_plan(path, call.edit.format, facts);
  if (const auto faults = placement_faults(opened.plan.placement); !faults.empty() && !call.edit.allow_faults)
    throw Error(Exit::kBadInput, path + ": " + faults_text(faults),
                "moe-place check " + path + " lists all faults; --allow-faults writes it all the same");
  if (call.inputs.output.empty()) throw Error(Exit::kUsage, "import: expected a plan to write, found none", "-o PLAN");
  const std::string saved = save_plan(call, opened.plan, &opened);
  print_result(call.common, {{"kind", "moe-place import"}, {"plan", call.inputs.output}},
               "import: " + size_text(opened.plan) + "\n" + saved);
  return Exit::kOk;
}

}  // namespace moe
