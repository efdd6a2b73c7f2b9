// The own JSON form of plans: everything, a line per layer. A pin is [expert, rank]: it survives a rank's list being edited.
#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/manifest.h"
#include "lib/run/place_text_parts.h"

namespace moe::place_text {

using nlohmann::json;

namespace {

json layer_json(const PlanFile& plan, std::size_t l) {
  const LayerPlacement& placed = plan.placement.placed[l];
  const std::vector<int> slot2expert = placed.slot2expert(), slot2rank = placed.slot2rank();
  json pinned = json::array();
  for (std::size_t s = 0; s < slot2expert.size(); ++s)
    if (plan.pinned_LS[l][s] != 0) pinned.push_back({slot2expert[s], slot2rank[s]});
  return {{"layer", plan.placement.layers[l]}, {"ranks", placed.rank2experts}, {"pinned", pinned}};
}

// The slots that the pins name; each takes the first copy that has none yet.
std::vector<std::uint8_t> pins_of(const json& list, const LayerPlacement& placed, const std::string& where) {
  const std::vector<int> slot2expert = placed.slot2expert(), slot2rank = placed.slot2rank();
  std::vector<std::uint8_t> pinned_S(slot2expert.size());
  for (std::size_t i = 0; i < list_of(list, where).size(); ++i) {
    const std::string here = where + "[" + std::to_string(i) + "]";
    const std::vector<int> pin = ints_of(list[i], here, INT32_MIN, INT32_MAX);
    if (pin.size() != 2) refuse(here, "[expert, rank]", found_text(list[i]));
    std::size_t s = 0;
    while (s < slot2expert.size() && (slot2expert[s] != pin[0] || slot2rank[s] != pin[1] || pinned_S[s] != 0)) ++s;
    if (s == slot2expert.size())
      refuse(here, "expert " + std::to_string(pin[0]) + " on rank " + std::to_string(pin[1]), "no such copy");
    pinned_S[s] = 1;
  }
  return pinned_S;
}

void add_layer(const json& object, const std::string& where, PlanFile& plan, const PlanFacts& facts) {
  Placement& p = plan.placement;
  need_members(object, where, {"layer", "ranks", "pinned"});
  for (const char* name : {"layer", "ranks"})
    if (!object.contains(name)) refuse(where, std::string("a member ") + name, "none");
  const int layer = int_of(object.at("layer"), where + ".layer", 0, kMost - 1);
  if (!p.layers.empty() && layer <= p.layers.back())
    refuse(where + ".layer", "layers that rise", std::to_string(layer) + " after " + std::to_string(p.layers.back()));
  const json& ranks = list_of(object.at("ranks"), where + ".ranks");
  if (ranks.size() != plan.rank2node.size())
    refuse(where + ".ranks", std::to_string(plan.rank2node.size()) + " ranks, as rank2node has",
           std::to_string(ranks.size()));
  LayerPlacement placed;
  const int least = facts.allow_faults ? INT32_MIN : 0, most = facts.allow_faults ? INT32_MAX : p.num_experts - 1;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    placed.rank2experts.push_back(ints_of(ranks[r], where + ".ranks[" + std::to_string(r) + "]", least, most));
  plan.pinned_LS.push_back(object.contains("pinned")
                               ? pins_of(object.at("pinned"), placed, where + ".pinned")
                               : std::vector<std::uint8_t>(static_cast<std::size_t>(placed.num_slots())));
  p.layers.push_back(layer);
  p.placed.push_back(std::move(placed));
}

}  // namespace

std::string json_of(const PlanFile& plan) {
  std::string text = "{\"kind\": \"moe-plan\", \"num_experts\": " + std::to_string(plan.placement.num_experts) +
                     ",\n \"rank2node\": " + json(plan.rank2node).dump() + ",\n \"layers\": [\n";
  for (std::size_t l = 0; l < plan.placement.layers.size(); ++l)
    text += (l == 0 ? "  " : ",\n  ") + layer_json(plan, l).dump();
  const auto dump = [](const json& j) { return j.dump(-1, ' ', false, json::error_handler_t::replace); };
  return text + "\n ],\n \"predicted\": " + dump(plan.predicted) + ",\n \"provenance\": " + dump(plan.provenance) + "}\n";
}

PlanFile parse_json(const std::string& text, const std::string& path, const PlanFacts& facts) {
  const json root = parse_strict_json(text, path);
  need_members(root, path, {"kind", "num_experts", "rank2node", "layers", "predicted", "provenance"});
  for (const char* name : {"num_experts", "rank2node", "layers"})
    if (!root.contains(name)) refuse(path, std::string("a member ") + name, "none");
  if (root.value("kind", json("moe-plan")) != "moe-plan") refuse(path + ": kind", "moe-plan", found_text(root.at("kind")));
  PlanFile plan;
  plan.placement.num_experts = int_of(root.at("num_experts"), path + ": num_experts", 1, kMost);
  if (facts.num_experts != 0 && facts.num_experts != plan.placement.num_experts)
    refuse(path + ": num_experts", std::to_string(facts.num_experts), std::to_string(plan.placement.num_experts));
  plan.rank2node = ints_of(root.at("rank2node"), path + ": rank2node", 0, kMost);
  need_nodes(plan.rank2node, path + ": rank2node");
  if (!facts.rank2node.empty()) plan.rank2node = facts.rank2node;
  const json& layers = list_of(root.at("layers"), path + ": layers");
  if (layers.empty() || plan.rank2node.empty()) refuse(path, "layers and ranks", "none");
  for (std::size_t l = 0; l < layers.size(); ++l)
    add_layer(layers[l], path + ": layers[" + std::to_string(l) + "]", plan, facts);
  plan.predicted = root.value("predicted", json());
  plan.provenance = root.value("provenance", json::array());
  return plan;
}

}  // namespace moe::place_text
