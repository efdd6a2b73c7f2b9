// The table of one layer: every rank with its experts and loads. Not here: the tables of all layers
// (place_show_tables.cpp).
#include <cmath>

#include "lib/base/byte_size.h"
#include "lib/run/place_show_tables.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr int kBar = 40;  // characters of the most loaded expert's bar

std::string load_text(double x) {
  if (!std::isfinite(x)) return "-";
  return x < 1000 || x > 1e15 ? short_float(x) : thousands(std::llround(x));
}

ShowTable ranks_of_layer(const ShowSubject& s, const ShowFigures& f, std::size_t l) {
  const PlacedFigures& p = f.placed[0];
  const bool loaded = !p.score.of_layer.empty();
  ShowTable t{"Layer " + std::to_string(f.layers[l]) + ": the experts of every rank" +
                  (loaded ? " (expert:load over the mean of all experts, x copies, * pinned)" : " (x copies, * pinned)"),
              {">rank", ">node", ">load", ">load/mean", ">slots", ">memory", "experts"},
              {}};
  for (int r = 0; r < p.placement.num_ranks(); ++r) {
    const auto at = static_cast<std::size_t>(r);
    const std::size_t slots = p.placement.placed[l].rank2experts[at].size();
    t.rows.push_back(
        {std::to_string(r), std::to_string(s.topology.rank2node[at]),
         loaded ? load_text(p.score.of_layer[l].rank_load_R[at]) : "-", loaded ? figure_text(p.over_mean_LR[l][at], 3) : "-",
         std::to_string(slots),
         s.expert_bytes > 0 ? bytes_text(static_cast<double>(s.expert_bytes) * static_cast<double>(slots)) : "-",
         slot_text(s, f, l, r)});
  }
  return t;
}

ShowTable experts_of_layer(const ShowSubject& s, const ShowFigures& f, std::size_t l) {
  const ExpertFigures& e = f.experts_L[l];
  ShowTable t{"Layer " + std::to_string(f.layers[l]) + ": every expert, the most loaded first",
              {">expert", ">load", ">load/mean", "0 to the largest"},
              {}};
  for (const int i : e.hottest) {
    const auto at = static_cast<std::size_t>(i);
    const double share = e.over_mean_E[at] / e.max;
    t.rows.push_back({std::to_string(i), load_text(s.loads.of_layer[l].load_E[at]), figure_text(e.over_mean_E[at], 3),
                      std::isfinite(share) ? std::string(static_cast<std::size_t>(std::lround(share * kBar)), '#') : ""});
  }
  return t;
}

}  // namespace

std::string slot_text(const ShowSubject& s, const ShowFigures& f, std::size_t l, int rank) {
  const LayerPlacement& layer = f.placed[0].placement.placed[l];
  const std::vector<int>& copies_E = f.placed[0].num_copies_LE[l];
  const std::vector<std::vector<std::uint8_t>>& pinned = s.plan.pinned_LS;
  std::size_t slot = 0;  // the first of the rank
  for (int r = 0; r < rank; ++r) slot += layer.rank2experts[static_cast<std::size_t>(r)].size();
  std::string text;
  for (const int e : layer.rank2experts[static_cast<std::size_t>(rank)]) {
    text += (text.empty() ? "" : " ") + std::to_string(e);
    if (!f.experts_L.empty()) text += ":" + figure_text(f.experts_L[l].over_mean_E[static_cast<std::size_t>(e)]);
    if (copies_E[static_cast<std::size_t>(e)] > 1) text += "x" + std::to_string(copies_E[static_cast<std::size_t>(e)]);
    if (l < pinned.size() && slot < pinned[l].size() && pinned[l][slot]) text += "*";
    ++slot;
  }
  return text;
}

ShowTable layer_table(const ShowSubject& s, const ShowFigures& f, std::size_t l) {
  return f.placed.empty() ? experts_of_layer(s, f, l) : ranks_of_layer(s, f, l);
}

}  // namespace moe
