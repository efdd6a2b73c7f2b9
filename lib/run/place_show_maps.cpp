// The heat maps and pictures of moe-place show, made from its figures. Not here: how they are drawn
// (place_show_picture.cpp, place_show_heat.cpp).
#include <algorithm>

#include "lib/base/byte_size.h"
#include "lib/run/place_show.h"

namespace moe {
namespace {

bool is_loaded(const ShowFigures& f) { return !f.experts_L.empty(); }

std::string rank_title(const ShowSubject& s, const ShowFigures& f, std::size_t which, std::size_t l, std::size_t r) {
  const PlacedFigures& p = f.placed[which];
  const std::vector<int>& experts = p.placement.placed[l].rank2experts[r];
  std::string text = "layer " + std::to_string(f.layers[l]) + ", rank " + std::to_string(r) + " (node " +
                     std::to_string(s.topology.rank2node[r]) + "): ";
  text += (is_loaded(f) ? "load " + figure_text(p.over_mean_LR[l][r]) + " of the mean, " : "") +
          std::to_string(experts.size()) + " slots, experts";
  for (const int e : experts) text += " " + std::to_string(e);
  return text;
}

KeyFigure max_figure(const ShowFigures& f, bool worst) {
  const PlacedFigures& p = f.placed[0];
  KeyFigure k{worst ? "worst max / mean" : "average max / mean", figure_text(worst ? p.worst_max : p.mean_max, 3), ""};
  if (f.placed.size() > 1) k.note = "linear " + figure_text(worst ? f.placed[1].worst_max : f.placed[1].mean_max, 3);
  return k;
}

double most_memory(const ShowSubject& s, const Placement& placement) {
  std::size_t most = 0;
  for (std::size_t r = 0; r < s.topology.rank2node.size(); ++r) {
    std::size_t slots = 0;
    for (const LayerPlacement& layer : placement.placed) slots += layer.rank2experts[r].size();
    most = std::max(most, slots);
  }
  return static_cast<double>(most) * static_cast<double>(s.expert_bytes);
}

std::vector<KeyFigure> rank_figures(const ShowSubject& s, const ShowFigures& f) {
  const PlacedFigures& p = f.placed[0];
  KeyFigure rows{"inter-node rows per token", figure_text(p.rows_per_token, 3), "not known"};
  if (rows.value != "-") rows.note = f.placed.size() > 1 ? "linear " + figure_text(f.placed[1].rows_per_token, 3) : "";
  const std::size_t copied = experts_with_copies(p.placement).size();
  const int slots = p.placement.placed[0].num_slots();
  const KeyFigure copies{"slots of a layer", std::to_string(slots), std::to_string(copied) + " experts with copies, in all"};
  KeyFigure last{"pinned", std::to_string(pinned_experts(s.plan).size()), "experts, in all layers"};
  if (s.expert_bytes > 0) last = {"memory of a rank", bytes_text(most_memory(s, p.placement)), "of experts, at most"};
  return {max_figure(f, true), max_figure(f, false), rows, copies, last};
}

std::vector<KeyFigure> expert_figures(const ShowFigures& f) {
  double vio = 0, cv = 0, worst = 0;
  int dead = 0;
  for (const ExpertFigures& e : f.experts_L) {
    vio += e.max_vio;
    cv += e.cv;
    dead += e.dead;
    worst = e.max > worst ? e.max : worst;
  }
  const auto n = static_cast<double>(f.experts_L.size());
  return {{"worst max / mean", figure_text(worst), "of an expert"},
          {"average MaxVio", figure_text(vio / n), "max / mean \u2212 1"},
          {"average cv", figure_text(cv / n), "standard deviation / mean"},
          {"dead experts", std::to_string(dead), "of all layers"}};
}

std::string model_text(const ShowSubject& s, const ShowFigures& f) {
  std::string text = std::to_string(f.layers.size()) + " layers of " + std::to_string(f.num_experts) + " experts";
  if (s.loads.top_k > 0) text += ", top-" + std::to_string(s.loads.top_k);
  if (s.topology.num_ranks() > 0)
    text += ", on " + std::to_string(s.topology.num_ranks()) + " ranks in " + std::to_string(s.topology.num_nodes()) +
            " nodes (" + topology_text(s.topology) + ")";
  return text;
}

}  // namespace

HeatMap rank_map(const ShowSubject& s, const ShowFigures& f, std::size_t which) {
  const PlacedFigures& p = f.placed[which];
  HeatMap map{.title = (is_loaded(f) ? "Load of ranks over the mean, " : "Slots of ranks over the mean, ") + p.name,
              .column = "rank",
              .layers = f.layers,
              .value_LC = p.over_mean_LR,
              .column2node = s.topology.rank2node,
              .bound_L = {},
              .cell_title = [&s, &f, which](std::size_t l, std::size_t r) { return rank_title(s, f, which, l, r); }};
  for (const LayerScore& score : p.score.of_layer) map.bound_L.push_back(score.lower_bound);
  return map;
}

HeatMap expert_map(const ShowFigures& f) {
  HeatMap map{.title = "Load of experts over the mean",
              .column = "expert",
              .layers = f.layers,
              .value_LC = {},
              .column2node = {},
              .bound_L = {},
              .cell_title = [&f](std::size_t l, std::size_t e) {
                return "layer " + std::to_string(f.layers[l]) + ", expert " + std::to_string(e) + ": load " +
                       figure_text(f.experts_L[l].over_mean_E[e]) + " of the mean";
              }};
  for (const ExpertFigures& e : f.experts_L) map.value_LC.push_back(e.over_mean_E);
  return map;
}

PlacePicture expert_picture(const ShowSubject& s, const ShowFigures& f) {
  return {.title = "Expert load: " + s.path,
          .subtitle = model_text(s, f),
          .unit = "rows of an expert / mean of its layer",
          .figures = expert_figures(f),
          .maps = {expert_map(f)}};
}

PlacePicture show_picture(const ShowSubject& s, const ShowFigures& f) {
  if (f.placed.empty()) return expert_picture(s, f);
  PlacePicture picture{.title = (s.kind == "plan" ? "Placement of experts: " : "Load of ranks: ") + s.path,
                       .subtitle = model_text(s, f),
                       .unit = is_loaded(f) ? "rows of a rank / mean of its layer" : "slots of a rank / mean of its layer",
                       .figures = rank_figures(s, f),
                       .maps = {}};
  // Before, then after.
  for (std::size_t i = f.placed.size(); i-- > 0;) picture.maps.push_back(rank_map(s, f, i));
  if (f.placed.size() > 1) {
    picture.maps[0].title = "before: linear placement";
    picture.maps[1].title = "after: this plan";
  }
  return picture;
}

}  // namespace moe
