// All figures of moe-place show as JSON; what is not known is null. Not here: the figures (place_show_figures.h).
#include <cmath>

#include "lib/run/place_show.h"

namespace moe {
namespace {

using nlohmann::json;

// NaN is null, whoever prints it.
json known(double x) { return std::isfinite(x) ? json(x) : json(nullptr); }
json known(const std::vector<double>& list) {
  json out = json::array();
  for (const double x : list) out.push_back(known(x));
  return out;
}

json experts_json(const ExpertFigures& e) {
  return {{"tokens", known(e.num_tokens)},
          {"p50", known(e.p50)},
          {"p90", known(e.p90)},
          {"p99", known(e.p99)},
          {"max", known(e.max)},
          {"max_vio", known(e.max_vio)},
          {"cv", known(e.cv)},
          {"dead", e.dead},
          {"load_over_mean_E", known(e.over_mean_E)},
          {"hottest", e.hottest}};
}

json layer_json(const PlacedFigures& p, std::size_t l) {
  json out{{"slots", p.placement.placed[l].num_slots()}, {"rank2experts", p.placement.placed[l].rank2experts}};
  if (p.score.of_layer.empty()) return out;
  const LayerScore& s = p.score.of_layer[l];
  out["rank_load_R"] = known(s.rank_load_R);
  out["load_over_mean_R"] = known(p.over_mean_LR[l]);
  out["max_over_mean"] = known(p.over_mean_LR[l][place_of_max(p.over_mean_LR[l])]);
  out["hottest_rank"] = place_of_max(p.over_mean_LR[l]);
  out["lower_bound"] = known(s.lower_bound);
  out["inter_node_rows_per_token"] = known(s.inter_node_rows_per_token);
  return out;
}

json places_json(const std::vector<ExpertPlaces>& places, const ShowFigures& f) {
  json out = json::array();
  for (const ExpertPlaces& p : places) out.push_back({{"layer", f.layers[p.l]}, {"expert", p.expert}, {"ranks", p.ranks}});
  return out;
}

// Of the plan at the top level, of the linear placement under "linear".
json totals_json(const PlacedFigures& p) {
  return {{"mean_max_over_mean", known(p.mean_max)},
          {"worst_max_over_mean", known(p.worst_max)},
          {"inter_node_rows_per_token", known(p.rows_per_token)}};
}

json memory_json(const ShowSubject& s, const Placement& p) {
  if (s.expert_bytes <= 0) return nullptr;
  std::vector<std::int64_t> bytes_R(static_cast<std::size_t>(p.num_ranks()));
  for (const LayerPlacement& layer : p.placed)
    for (std::size_t r = 0; r < bytes_R.size(); ++r)
      bytes_R[r] += s.expert_bytes * static_cast<std::int64_t>(layer.rank2experts[r].size());
  return bytes_R;
}

}  // namespace

nlohmann::json show_json(const ShowSubject& s, const ShowFigures& f) {
  json out{{"kind", "moe-place show"}, {"path", s.path}, {"of", s.kind}, {"experts", f.num_experts}};
  out["top_k"] = s.loads.top_k > 0 ? json(s.loads.top_k) : json(nullptr);
  out["layers"] = json::array();
  for (std::size_t l = 0; l < f.layers.size(); ++l) {
    json layer{{"layer", f.layers[l]}};
    if (!f.experts_L.empty()) layer["expert_load"] = experts_json(f.experts_L[l]);
    if (!f.placed.empty()) layer[f.placed[0].name == "linear" ? "linear" : "plan"] = layer_json(f.placed[0], l);
    if (f.placed.size() > 1) layer["linear"] = layer_json(f.placed[1], l);
    out["layers"].push_back(std::move(layer));
  }
  if (f.placed.empty()) return out;
  out["topology"] = topology_text(s.topology);
  out.update(totals_json(f.placed[0]));
  if (f.placed.size() > 1) out["linear"] = totals_json(f.placed[1]);
  out["memory_bytes_R"] = memory_json(s, f.placed[0].placement);
  out["copies"] = places_json(experts_with_copies(f.placed[0].placement), f);
  out["pinned"] = places_json(pinned_experts(s.plan), f);
  if (s.kind == "plan") out["predicted"] = s.plan.predicted, out["provenance"] = s.plan.provenance;
  return out;
}

}  // namespace moe
