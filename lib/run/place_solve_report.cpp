#include "lib/run/place_solve_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "lib/base/byte_size.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr std::size_t kMostRows = 12;  // of the table; the worst layers

std::string fixed(double x, int digits) {
  if (std::isnan(x)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, x);
  return text;
}

json number(double x) { return std::isfinite(x) ? json(x) : json(); }

double gap(const LayerScore& s) { return s.max_over_mean / s.lower_bound - 1; }

// Copies that move, per entry of placement.layers.
std::vector<int> moved_by_layer(const SolvedPlan& s) {
  std::vector<int> moved(s.placement.layers.size());
  if (s.moves)
    for (const Move& m : *s.moves)
      ++moved[static_cast<std::size_t>(std::find(s.placement.layers.begin(), s.placement.layers.end(), m.layer) -
                                       s.placement.layers.begin())];
  return moved;
}

std::string moved_text(const SolvedPlan& s, std::int64_t copies) {
  if (s.expert_bytes == 0) return thousands(copies) + " copies";
  return bytes_text(static_cast<double>(copies * s.expert_bytes));
}

std::vector<std::size_t> worst_first(const SolvedPlan& s) {
  std::vector<std::size_t> order(s.score.of_layer.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return s.score.of_layer[a].max_over_mean > s.score.of_layer[b].max_over_mean;
  });
  if (order.size() > kMostRows) order.resize(kMostRows);
  return order;
}

std::string of_linear(const SolvedPlan& s, double PlanScore::*field, int digits) {
  return s.linear ? ", linear " + fixed((*s.linear).*field, digits) : "";
}

}  // namespace

std::string solve_table(const SolvedPlan& s) {
  const std::size_t num_layers = s.placement.layers.size();
  TextTable table({"layer", ">bound", ">max/mean", ">gap", ">linear", ">rows/token", ">moved"});
  const std::vector<int> moved = moved_by_layer(s);
  for (const std::size_t l : worst_first(s)) {
    const LayerScore& layer = s.score.of_layer[l];
    table.add({std::to_string(s.placement.layers[l]), fixed(layer.lower_bound, 4), fixed(layer.max_over_mean, 4),
               fixed(100 * gap(layer), 2) + " %", s.linear ? fixed(s.linear->of_layer[l].max_over_mean, 4) : "-",
               fixed(layer.inter_node_rows_per_token, 3), s.moves ? moved_text(s, moved[l]) : "-"});
  }
  double bound = 0;
  for (const LayerScore& layer : s.score.of_layer) bound += layer.lower_bound / static_cast<double>(num_layers);
  std::string text = s.policy + (s.policy == "own" ? ", objective " + s.objective : "") + ": " + std::to_string(num_layers) +
                     " layers x " + std::to_string(s.placement.num_experts) + " experts in " +
                     std::to_string(s.placement.placed.empty() ? 0 : s.placement.placed[0].num_slots()) + " slots, " +
                     topology_text(s.topology) + "\n";
  if (num_layers > kMostRows) text += "  the " + std::to_string(kMostRows) + " layers with the most load on a rank:\n";
  text += table.text();
  text += labelled("max/mean", "mean of layers " + fixed(s.score.mean_max_over_mean, 4) + " (bound " + fixed(bound, 4) +
                                   of_linear(s, &PlanScore::mean_max_over_mean, 4) + "), worst " +
                                   fixed(s.score.worst_max_over_mean, 4));
  if (std::isfinite(s.score.inter_node_rows_per_token))
    text += labelled("crossing", fixed(s.score.inter_node_rows_per_token, 4) + " rows per token between nodes" +
                                     of_linear(s, &PlanScore::inter_node_rows_per_token, 4));
  if (s.score.seconds > 0)
    text += labelled("time", fixed(1e3 * s.score.seconds, 3) + " ms a step in these layers" +
                                 (s.linear ? ", linear " + fixed(1e3 * s.linear->seconds, 3) + " ms" : ""));
  const std::int64_t num_moves = s.moves ? static_cast<std::int64_t>(s.moves->size()) : 0;
  if (s.moves)
    text +=
        labelled("moved", moved_text(s, num_moves) + (s.expert_bytes > 0 ? " (" + thousands(num_moves) + " copies)" : "") +
                              " against " + (s.from.empty() ? "the linear placement" : s.from));
  return text;
}

json predicted_json(const SolvedPlan& s) {
  return {{"max_over_mean", number(s.score.mean_max_over_mean)},
          {"worst_max_over_mean", number(s.score.worst_max_over_mean)},
          {"inter_node_rows_per_token", number(s.score.inter_node_rows_per_token)},
          {"seconds", number(s.score.seconds)}};
}

json solve_json(const SolvedPlan& s) {
  json layers = json::array();
  const std::vector<int> moved = moved_by_layer(s);
  for (std::size_t l = 0; l < s.placement.layers.size(); ++l) {
    const LayerScore& layer = s.score.of_layer[l];
    json one = {{"layer", s.placement.layers[l]},
                {"phy2log", s.placement.placed[l].slot2expert()},
                {"max_over_mean", number(layer.max_over_mean)},
                {"lower_bound", number(layer.lower_bound)},
                {"inter_node_rows_per_token", number(layer.inter_node_rows_per_token)}};
    if (s.moves) one["moved_copies"] = moved[l];
    if (s.moves && s.expert_bytes > 0) one["moved_bytes"] = moved[l] * s.expert_bytes;
    layers.push_back(std::move(one));
  }
  json result = {{"kind", "moe-place solve"},  {"policy", s.policy},
                 {"objective", s.objective},   {"topology", topology_text(s.topology)},
                 {"solve_seconds", s.seconds}, {"layers", std::move(layers)}};
  result.update(predicted_json(s));
  result["moved_copies"] = s.moves ? json(s.moves->size()) : json();
  result["moved_bytes"] =
      s.moves && s.expert_bytes > 0 ? json(static_cast<std::int64_t>(s.moves->size()) * s.expert_bytes) : json();
  if (s.linear) {
    result["linear"] = {{"max_over_mean", number(s.linear->mean_max_over_mean)},
                        {"inter_node_rows_per_token", number(s.linear->inter_node_rows_per_token)},
                        {"seconds", number(s.linear->seconds)}};
  }
  return result;
}

}  // namespace moe
