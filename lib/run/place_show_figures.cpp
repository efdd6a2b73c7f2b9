#include "lib/run/place_show_figures.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>
#include <numeric>

#include "lib/model/load_metrics.h"

namespace moe {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

double sum_of(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

std::vector<double> over_mean(std::vector<double> values) {
  const double mean = sum_of(values) / static_cast<double>(values.size());
  for (double& v : values) v = mean > 0 ? v / mean : kNone;
  return values;
}

// Nearest rank: the smallest value that at least `share` of all do not exceed.
double percentile(const std::vector<double>& ascending, double share) {
  const auto n = static_cast<double>(ascending.size());
  return ascending[static_cast<std::size_t>(std::max(std::ceil(share * n - 1e-9), 1.0)) - 1];
}

ExpertFigures experts_of(const LayerLoads& loads) {
  ExpertFigures f{};
  f.num_tokens = loads.num_tokens > 0 ? loads.num_tokens : kNone;
  f.over_mean_E = over_mean(loads.load_E);
  f.hottest.resize(loads.load_E.size());
  std::iota(f.hottest.begin(), f.hottest.end(), 0);
  const auto load = [&](int e) { return loads.load_E[static_cast<std::size_t>(e)]; };
  std::stable_sort(f.hottest.begin(), f.hottest.end(), [&](int a, int b) { return load(a) > load(b); });
  const LoadMetrics m = load_metrics(loads.load_E);
  f.dead = m.dead;
  f.p50 = f.p90 = f.p99 = f.max = f.max_vio = f.cv = kNone;
  if (!(sum_of(loads.load_E) > 0)) return f;
  std::vector<double> ascending = f.over_mean_E;
  std::sort(ascending.begin(), ascending.end());
  f.p50 = percentile(ascending, 0.5);
  f.p90 = percentile(ascending, 0.9);
  f.p99 = percentile(ascending, 0.99);
  f.max = ascending.back();
  f.max_vio = m.max_vio;
  f.cv = m.cv;
  return f;
}

std::vector<double> slots_R(const LayerPlacement& layer) {
  std::vector<double> slots;
  for (const auto& experts : layer.rank2experts) slots.push_back(static_cast<double>(experts.size()));
  return slots;
}

PlacedFigures figures_of(const ShowSubject& s, std::string name, const Placement& placement) {
  PlacedFigures f{.name = std::move(name), .placement = placement};
  f.mean_max = f.worst_max = f.rows_per_token = kNone;
  if (!s.loads.layers.empty()) f.score = score(placement, s.loads, s.topology, {}, 0, s.choice);
  double sum = 0, rows = 0;
  std::size_t num_sums = 0, num_rows = 0;
  for (std::size_t l = 0; l < placement.layers.size(); ++l) {
    const bool loaded = !f.score.of_layer.empty();
    f.num_copies_LE.emplace_back(static_cast<std::size_t>(placement.num_experts));
    for (const int e : placement.placed[l].slot2expert()) ++f.num_copies_LE[l][static_cast<std::size_t>(e)];
    f.over_mean_LR.push_back(over_mean(loaded ? f.score.of_layer[l].rank_load_R : slots_R(placement.placed[l])));
    const double most = f.over_mean_LR[l][place_of_max(f.over_mean_LR[l])];
    if (!loaded || !std::isfinite(most)) continue;
    sum += most;
    ++num_sums;
    if (!(most <= f.worst_max)) f.worst_layer = static_cast<int>(l);
    f.worst_max = std::fmax(f.worst_max, most);
    if (const double r = f.score.of_layer[l].inter_node_rows_per_token; std::isfinite(r)) rows += r, ++num_rows;
  }
  if (num_sums > 0) f.mean_max = sum / static_cast<double>(num_sums);
  if (num_rows > 0) f.rows_per_token = rows / static_cast<double>(num_rows);
  return f;
}

}  // namespace

std::size_t place_of_max(const std::vector<double>& values) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < values.size(); ++i)
    if (values[i] > values[best] || (std::isnan(values[best]) && !std::isnan(values[i]))) best = i;
  return best;
}

ShowFigures show_figures(const ShowSubject& s) {
  ShowFigures f;
  const bool is_plan = !s.plan.placement.layers.empty(), is_loaded = !s.loads.layers.empty();
  f.layers = is_plan ? s.plan.placement.layers : s.loads.layers;
  f.num_experts = is_plan ? s.plan.placement.num_experts : s.loads.num_experts;
  for (const LayerLoads& layer : s.loads.of_layer) f.experts_L.push_back(experts_of(layer));
  if (s.topology.num_ranks() == 0) return f;
  const Placement linear = linear_placement(f.layers, f.num_experts, s.topology.num_ranks());
  if (is_plan) f.placed.push_back(figures_of(s, "this plan", s.plan.placement));
  if (is_loaded && (!is_plan || !(s.plan.placement == linear))) f.placed.push_back(figures_of(s, "linear", linear));
  return f;
}

std::vector<ExpertPlaces> experts_with_copies(const Placement& p) {
  std::vector<ExpertPlaces> all;
  for (std::size_t l = 0; l < p.placed.size(); ++l) {
    std::map<int, std::vector<int>> ranks_of;
    for (int r = 0; r < p.placed[l].num_ranks(); ++r)
      for (const int e : p.placed[l].rank2experts[static_cast<std::size_t>(r)]) ranks_of[e].push_back(r);
    const std::size_t first = all.size();
    for (auto& [e, ranks] : ranks_of)
      if (ranks.size() > 1) all.push_back({l, e, std::move(ranks)});
    std::stable_sort(all.begin() + static_cast<std::ptrdiff_t>(first), all.end(),
                     [](const ExpertPlaces& a, const ExpertPlaces& b) { return a.ranks.size() > b.ranks.size(); });
  }
  return all;
}

std::vector<ExpertPlaces> pinned_experts(const PlanFile& plan) {
  std::vector<ExpertPlaces> all;
  for (std::size_t l = 0; l < plan.pinned_LS.size(); ++l) {
    const std::vector<int> experts = plan.placement.placed[l].slot2expert(), ranks = plan.placement.placed[l].slot2rank();
    std::map<int, std::vector<int>> ranks_of;
    for (std::size_t s = 0; s < plan.pinned_LS[l].size() && s < experts.size(); ++s)
      if (plan.pinned_LS[l][s]) ranks_of[experts[s]].push_back(ranks[s]);
    for (auto& [e, list] : ranks_of) all.push_back({l, e, std::move(list)});
  }
  return all;
}

std::string figure_text(double x, int decimals) {
  if (!std::isfinite(x)) return "-";
  char text[64];
  std::snprintf(text, sizeof text, "%.*f", decimals, x);
  return text;
}

}  // namespace moe
