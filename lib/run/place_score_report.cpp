#include "lib/run/place_score_report.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr std::size_t kMostLayers = 16;  // lines of the table, unless all are asked for

std::string fixed(double x, int digits) {
  if (std::isnan(x)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", digits, x);
  return text;
}
std::string percent(double ratio) { return std::isnan(ratio) ? "-" : fixed(100 * (ratio - 1), 1) + " %"; }
std::string milliseconds(double seconds) { return std::isnan(seconds) ? "-" : short_float(1e3 * seconds) + " ms"; }

// The layers farthest from even first, as many as are shown; then in the order of the model.
std::vector<std::size_t> shown_layers(const ScoreReport& r, bool all) {
  std::vector<std::size_t> order(r.layers.size());
  std::iota(order.begin(), order.end(), 0);
  if (all || order.size() <= kMostLayers) return order;
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return r.plan.of_layer[a].max_over_mean > r.plan.of_layer[b].max_over_mean;
  });
  order.resize(kMostLayers);
  std::sort(order.begin(), order.end());
  return order;
}

std::string layers_text(const ScoreReport& r, bool all) {
  std::vector<std::string> headings{">layer", ">max/mean",   ">in steps",         ">bound",
                                    ">gap",   ">rows/token", ">linear: max/mean", ">rows/token"};
  if (r.has_time) headings.insert(headings.end(), {">step", ">linear"});
  TextTable table(headings);
  const std::vector<std::size_t> shown = shown_layers(r, all);
  for (const std::size_t i : shown) {
    const LayerScore &p = r.plan.of_layer[i], &l = r.linear.of_layer[i];
    std::vector<std::string> cells{std::to_string(r.layers[i]),
                                   fixed(p.max_over_mean, 3),
                                   fixed(p.step_max_over_mean, 3),
                                   fixed(p.lower_bound, 3),
                                   percent(p.max_over_mean / p.lower_bound),
                                   fixed(p.inter_node_rows_per_token, 3),
                                   fixed(l.max_over_mean, 3),
                                   fixed(l.inter_node_rows_per_token, 3)};
    if (r.has_time) cells.insert(cells.end(), {milliseconds(p.seconds), milliseconds(l.seconds)});
    table.add(cells);
  }
  const std::size_t left = r.layers.size() - shown.size();
  return table.text() + (left > 0 ? "  .. and " + std::to_string(left) + " more even layers (-v shows all)\n" : "");
}

std::string summary_text(const ScoreReport& r) {
  const auto both = [](const std::string& plan, const std::string& linear) { return plan + " (linear " + linear + ")"; };
  std::string text = labelled(
      "max/mean", "mean " + both(fixed(r.plan.mean_max_over_mean, 3), fixed(r.linear.mean_max_over_mean, 3)) +
                      ", worst layer " + both(fixed(r.plan.worst_max_over_mean, 3), fixed(r.linear.worst_max_over_mean, 3)));
  if (!std::isnan(r.plan.mean_step_max_over_mean))
    text += labelled("in steps", both(fixed(r.plan.mean_step_max_over_mean, 3), fixed(r.linear.mean_step_max_over_mean, 3)) +
                                     ": mean over recorded steps of each one's max/mean");
  if (!std::isnan(r.plan.inter_node_rows_per_token))
    text += labelled("between nodes",
                     both(fixed(r.plan.inter_node_rows_per_token, 3), fixed(r.linear.inter_node_rows_per_token, 3)) +
                         " rows per token and layer, " +
                         (r.counted ? "counted over recorded tokens" : "estimated from pairs of experts"));
  if (r.has_time)
    text +=
        labelled("step", both(milliseconds(r.plan_step()), milliseconds(r.linear_step())) + ": predicted gain " +
                             (std::isnan(r.plan_step()) ? "not known" : fixed(r.linear_step() / r.plan_step(), 3) + " x"));
  return text;
}

std::string windows_text(const ScoreReport& r) {
  if (r.windows.of_window.empty()) return "";
  TextTable table({">steps", ">max/mean", ">worst layer", ">linear", ">fresh plan", ">like before", ">like first"});
  for (const ScoreWindow& w : r.windows.of_window)
    table.add({std::to_string(w.first_step) + "-" + std::to_string(w.last_step), fixed(w.plan, 3), fixed(w.worst_layer, 3),
               fixed(w.linear, 3), fixed(w.fresh, 3), fixed(w.correlation, 3), fixed(w.correlation_with_first, 3)});
  const std::string limit = fixed(r.stale_percent, 1) + " % worse than in the first window";
  return "\n" + table.text() + "  fresh plan: made of the window before. like: correlation of the experts' loads.\n" +
         labelled("stale", r.windows.stale_at < 0 ? "never " + limit
                                                  : "from step " + std::to_string(r.windows.stale_at) + " on: " + limit);
}

json plan_json(const PlanScore& s, const std::vector<int>& layers, bool has_time) {
  json list = json::array();
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const LayerScore& l = s.of_layer[i];
    list.push_back({{"layer", layers[i]},
                    {"rank_load", l.rank_load_R},
                    {"max_over_mean", l.max_over_mean},
                    {"step_max_over_mean", l.step_max_over_mean},
                    {"lower_bound", l.lower_bound},
                    {"gap", l.max_over_mean / l.lower_bound - 1},
                    {"inter_node_rows_per_token", l.inter_node_rows_per_token},
                    {"node_rows_in", l.node_rows_in_N},
                    {"node_rows_out", l.node_rows_out_N}});
    if (has_time) list.back()["seconds"] = l.seconds;
  }
  return {{"layers", list},
          {"mean_max_over_mean", s.mean_max_over_mean},
          {"worst_max_over_mean", s.worst_max_over_mean},
          {"mean_step_max_over_mean", s.mean_step_max_over_mean},
          {"inter_node_rows_per_token", s.inter_node_rows_per_token}};
}

json windows_json(const ScoreReport& r) {
  json list = json::array();
  for (const ScoreWindow& w : r.windows.of_window)
    list.push_back({{"first_step", w.first_step},
                    {"last_step", w.last_step},
                    {"max_over_mean", w.plan},
                    {"worst_max_over_mean", w.worst_layer},
                    {"linear_max_over_mean", w.linear},
                    {"fresh_max_over_mean", w.fresh},
                    {"correlation", w.correlation},
                    {"correlation_with_first", w.correlation_with_first}});
  return list;
}

}  // namespace

std::string score_text(const ScoreReport& r, bool all_layers) {
  return r.plan_path + " on " + topology_text(r.topology) + ", loads of " + r.loads_path + "\n" +
         layers_text(r, all_layers) + "\n" + summary_text(r) + windows_text(r);
}

json score_json(const ScoreReport& r) {
  json all = plan_json(r.plan, r.layers, r.has_time);
  all["kind"] = "moe-place score";
  all["plan"] = r.plan_path;
  all["loads"] = r.loads_path;
  all["topology"] = topology_text(r.topology);
  all["replica_choice"] = r.choice == ReplicaChoice::kSpread ? "spread" : "nearest";
  all["inter_node_rows_are"] = std::isnan(r.plan.inter_node_rows_per_token) ? "not known"
                               : r.counted                                  ? "counted"
                                                                            : "estimated";
  all["linear"] = plan_json(r.linear, r.layers, r.has_time);
  if (r.has_time) {
    all["seconds_per_step"] = r.plan_step();
    all["linear"]["seconds_per_step"] = r.linear_step();
    all["gain"] = r.linear_step() / r.plan_step();
  }
  if (!r.windows.of_window.empty()) {
    all["windows"] = windows_json(r);
    all["stale_at"] = r.windows.stale_at < 0 ? json() : json(r.windows.stale_at);
    all["stale_percent"] = r.stale_percent;
  }
  return all;
}

}  // namespace moe
