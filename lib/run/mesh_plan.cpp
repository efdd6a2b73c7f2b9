#include "lib/run/mesh_plan.h"

#include <numeric>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/plan_file.h"

namespace moe {
namespace {

std::string layers_text(const std::vector<int>& layers) {
  if (layers.empty()) return "no layers";
  return std::to_string(layers.size()) + (layers.size() == 1 ? " layer" : " layers") + " from layer " +
         std::to_string(layers.front()) + " to " + std::to_string(layers.back());
}

void need(bool ok, const std::string& path, const std::string& expected, const std::string& found) {
  if (!ok)
    throw Error(Exit::kBadInput, path + ": expected a plan for " + expected + ", found one for " + found,
                "moe-place show tells what a plan is for; moe-place init or solve makes one for this model");
}

}  // namespace

void need_plan_of_model(const Placement& plan, const std::string& path, const ModelConfig& model) {
  std::vector<int> layers(static_cast<std::size_t>(model.num_moe_layers()));
  std::iota(layers.begin(), layers.end(), model.num_dense_layers);
  need(plan.num_experts == model.num_experts, path, std::to_string(model.num_experts) + " experts a layer",
       std::to_string(plan.num_experts));
  need(plan.layers == layers, path, layers_text(layers), layers_text(plan.layers));
}

Placement plan_for_model(const std::string& path, const ModelConfig& model) {
  Placement plan = read_plan_file(path).placement;
  need_plan_of_model(plan, path, model);
  return plan;
}

void need_ranks_of_plan(const Placement& plan, const std::string& path, const MeshShape& mesh) {
  if (plan.layers.empty()) return;
  need(plan.num_ranks() == mesh.ep, path, std::to_string(mesh.ep) + " ranks (--ep)", std::to_string(plan.num_ranks()));
}

std::string plan_fact(const Placement& plan) { return "plan=" + xxh3(plan_json(plan).dump()).hex(); }

nlohmann::json plan_json(const Placement& plan) {
  nlohmann::json placed = nlohmann::json::array();
  for (const LayerPlacement& layer : plan.placed) placed.push_back(layer.rank2experts);
  return {{"num_experts", plan.num_experts}, {"layers", plan.layers}, {"experts", placed}};
}

Placement plan_of_layout(const nlohmann::json& layout) try {
  Placement plan;
  if (!layout.is_object() || !layout.contains("plan")) return plan;
  const auto& json = layout.at("plan");
  plan.num_experts = json.at("num_experts");
  plan.layers = json.at("layers").get<std::vector<int>>();
  for (const auto& layer : json.at("experts")) plan.placed.push_back({layer.get<std::vector<std::vector<int>>>()});
  const std::vector<std::string> faults = placement_faults(plan);
  if (!faults.empty()) throw Error(Exit::kBadInput, "manifest.json: state: layout: plan: " + faults[0]);
  return plan;
} catch (const nlohmann::json::exception& e) {
  throw Error(Exit::kBadInput, std::string("manifest.json: state: layout: plan: ") + e.what());
}

Placement plan_of_state(const nlohmann::json& state) {
  return state.is_object() && state.contains("layout") ? plan_of_layout(state.at("layout")) : Placement{};
}

Placement plan_of_blocks(Placement plan, int num_blocks) {
  while (!plan.layers.empty() && plan.layers.back() >= num_blocks) plan.layers.pop_back(), plan.placed.pop_back();
  return plan;
}

std::string plan_text(const Placement& plan) {
  int copies = 0;
  for (const LayerPlacement& layer : plan.placed) copies += layer.num_slots() - plan.num_experts;
  std::string text = "a plan of " + std::to_string(plan.layers.size()) + (plan.layers.size() == 1 ? " layer" : " layers");
  if (copies > 0) text += " with " + std::to_string(copies) + (copies == 1 ? " copy" : " copies") + " of experts";
  return text;
}

}  // namespace moe
