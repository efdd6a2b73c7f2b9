#include "lib/run/place_show_tables.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lib/base/byte_size.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t kExtremes = 2;  // so many of the hottest and coldest experts of a layer are named

std::string number(std::size_t n) { return std::to_string(n); }
std::string counted(std::size_t n, const char* what) { return number(n) + " " + what + (n == 1 ? "" : "s"); }
std::string layer_name(const ShowFigures& f, std::size_t l) { return std::to_string(f.layers[l]); }

// "0-3 7": with spaces, so that a long list is broken there.
std::string list_text(const std::vector<int>& numbers) {
  std::string text = ranges_text({numbers.begin(), numbers.end()});
  std::replace(text.begin(), text.end(), ',', ' ');
  return text;
}

std::string count_text(double x) {
  return std::isfinite(x) && std::fabs(x) < 9e18 ? thousands(std::llround(x)) : figure_text(x);
}

// "17 2.31, 4 2.02"
std::string extremes_text(const ExpertFigures& f, bool hottest) {
  std::string text;
  for (std::size_t i = 0; i < std::min(kExtremes, f.hottest.size()); ++i) {
    const int e = hottest ? f.hottest[i] : f.hottest[f.hottest.size() - 1 - i];
    text += (i > 0 ? ", " : "") + std::to_string(e) + " " + figure_text(f.over_mean_E[static_cast<std::size_t>(e)]);
  }
  return text;
}

const PlacedFigures* linear_of(const ShowFigures& f) { return f.placed.size() > 1 ? &f.placed[1] : nullptr; }

double most_of(const PlacedFigures* p, std::size_t l) {
  return p && !p->score.of_layer.empty() ? p->over_mean_LR[l][place_of_max(p->over_mean_LR[l])] : kUnknown;
}
const LayerScore* score_of(const PlacedFigures* p, std::size_t l) {
  return p && !p->score.of_layer.empty() ? &p->score.of_layer[l] : nullptr;
}
std::string rows_text(const LayerScore* s) { return s ? figure_text(s->inter_node_rows_per_token, 3) : "-"; }

std::size_t num_experts_of(const std::vector<ExpertPlaces>& all, std::size_t l) {
  return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), [=](const ExpertPlaces& p) { return p.l == l; }));
}

std::size_t num_slots_of(const Placement& p, std::size_t l, std::size_t rank) {
  return p.placed[l].rank2experts[rank].size();
}

std::string memory_text(const ShowSubject& s, std::size_t num_slots) {
  return s.expert_bytes > 0 ? bytes_text(static_cast<double>(s.expert_bytes) * static_cast<double>(num_slots)) : "-";
}

// A rank over all layers.
struct RankSums {
  std::size_t rank, num_slots = 0, times_hottest = 0, worst_layer = 0;
  double worst = kUnknown;
};
std::vector<RankSums> rank_sums(const PlacedFigures& p) {
  std::vector<RankSums> all(static_cast<std::size_t>(p.placement.num_ranks()));
  for (std::size_t r = 0; r < all.size(); ++r) all[r].rank = r;
  for (std::size_t l = 0; l < p.over_mean_LR.size(); ++l) {
    const std::size_t hottest = place_of_max(p.over_mean_LR[l]);
    if (!std::isnan(p.over_mean_LR[l][hottest])) ++all[hottest].times_hottest;
    for (RankSums& sums : all) {
      sums.num_slots += num_slots_of(p.placement, l, sums.rank);
      const double v = p.over_mean_LR[l][sums.rank];
      if (!(v <= sums.worst) && !std::isnan(v)) sums.worst = v, sums.worst_layer = l;
    }
  }
  std::stable_sort(all.begin(), all.end(), [](const RankSums& a, const RankSums& b) {
    return a.worst > b.worst || (std::isnan(b.worst) && !std::isnan(a.worst));
  });
  return all;
}

std::string low_to_high(std::size_t low, std::size_t high) {
  return low == high ? number(low) : number(low) + " to " + number(high);
}

std::string slots_text(const Placement& p) {
  std::size_t low = SIZE_MAX, high = 0, of_layer_low = SIZE_MAX, of_layer_high = 0;
  for (const LayerPlacement& layer : p.placed) {
    for (const auto& experts : layer.rank2experts)
      low = std::min(low, experts.size()), high = std::max(high, experts.size());
    const auto slots = static_cast<std::size_t>(layer.num_slots());
    of_layer_low = std::min(of_layer_low, slots);
    of_layer_high = std::max(of_layer_high, slots);
  }
  return low_to_high(of_layer_low, of_layer_high) + " in each layer, " + low_to_high(low, high) + " on each rank";
}

// "1.012 (mean of layers), 1.031 (layer 17)"
std::string max_text(const ShowFigures& f, const PlacedFigures& p) {
  if (!std::isfinite(p.worst_max)) return "-";
  return figure_text(p.mean_max, 3) + " on average, " + figure_text(p.worst_max, 3) + " in the worst layer (" +
         layer_name(f, static_cast<std::size_t>(p.worst_layer)) + ")";
}

double mean_bound(const PlacedFigures& p) {
  double sum = 0;
  for (const LayerScore& s : p.score.of_layer) sum += s.lower_bound;
  return sum / static_cast<double>(p.score.of_layer.size());
}

std::string memory_range_text(const ShowSubject& s, const PlacedFigures& p) {
  if (s.expert_bytes <= 0) return "- (--expert-bytes says what an expert takes)";
  std::size_t low = SIZE_MAX, high = 0;
  for (const RankSums& r : rank_sums(p)) low = std::min(low, r.num_slots), high = std::max(high, r.num_slots);
  return (low == high ? "" : memory_text(s, low) + " to ") + memory_text(s, high) + " of experts on each rank";
}

void add_placed_lines(const ShowSubject& s, const ShowFigures& f, std::vector<std::pair<std::string, std::string>>& lines) {
  const PlacedFigures& p = f.placed[0];
  const PlacedFigures* linear = linear_of(f);
  lines.emplace_back("ranks", number(s.topology.rank2node.size()) + " in " + std::to_string(s.topology.num_nodes()) +
                                  " nodes (" + topology_text(s.topology) + ")" +
                                  (p.name == "linear" ? ", experts in linear order" : ""));
  lines.emplace_back("slots", slots_text(p.placement));
  const std::size_t copied = experts_with_copies(p.placement).size(), pinned = pinned_experts(s.plan).size();
  lines.emplace_back("copies", copied == 0 ? "none" : counted(copied, "expert") + " with several");
  if (p.name != "linear") lines.emplace_back("pinned", pinned == 0 ? "none" : counted(pinned, "expert"));
  if (p.score.of_layer.empty()) {
    lines.emplace_back("load", "- (--routing or --loads gives it)");
  } else {
    lines.emplace_back("max/mean", max_text(f, p) + (linear ? "; linear " + max_text(f, *linear) : ""));
    lines.emplace_back("lower bound", figure_text(mean_bound(p), 3) + " on average");
  }
  lines.emplace_back("inter-node", figure_text(p.rows_per_token, 3) + " rows per token" +
                                       (linear ? "; linear " + figure_text(linear->rows_per_token, 3) : ""));
  lines.emplace_back("memory", memory_range_text(s, p));
}

}  // namespace

std::vector<std::pair<std::string, std::string>> summary_lines(const ShowSubject& s, const ShowFigures& f) {
  std::vector<std::pair<std::string, std::string>> lines;
  const std::vector<std::int64_t> layers(f.layers.begin(), f.layers.end());
  lines.emplace_back("layers", number(layers.size()) + " with experts (" + ranges_text(layers) + ")");
  lines.emplace_back("experts",
                     std::to_string(f.num_experts) + " in each layer" +
                         (s.loads.top_k > 0 ? ", " + std::to_string(s.loads.top_k) + " chosen by each token" : ""));
  if (!f.placed.empty()) add_placed_lines(s, f, lines);
  return lines;
}

ShowTable expert_table(const ShowFigures& f) {
  ShowTable t{"Experts: load over the mean of the layer",
              {"layer", ">tokens", ">p50", ">p90", ">p99", ">max", ">MaxVio", ">cv", ">dead", "hottest", "coldest"},
              {}};
  for (std::size_t l = 0; l < f.experts_L.size(); ++l) {
    const ExpertFigures& e = f.experts_L[l];
    t.rows.push_back({layer_name(f, l), count_text(e.num_tokens), figure_text(e.p50), figure_text(e.p90), figure_text(e.p99),
                      figure_text(e.max), figure_text(e.max_vio), figure_text(e.cv), std::to_string(e.dead),
                      extremes_text(e, true), extremes_text(e, false)});
  }
  return t;
}

ShowTable placed_table(const ShowSubject& s, const ShowFigures& f) {
  ShowTable t{
      "Ranks: load over the mean of the layer",
      {"layer", ">slots", ">max/mean", ">bound", ">linear", ">inter-node rows", ">linear", ">hottest", ">copied", ">pinned"},
      {}};
  if (f.placed.empty()) return t;
  // With loads there is no second one only where the first is linear.
  const PlacedFigures &p = f.placed[0], *linear = linear_of(f) ? linear_of(f) : &p;
  const std::vector<ExpertPlaces> copies = experts_with_copies(p.placement), pins = pinned_experts(s.plan);
  for (std::size_t l = 0; l < f.layers.size(); ++l) {
    const LayerScore* score = score_of(&p, l);
    const double most = most_of(&p, l);
    t.rows.push_back({layer_name(f, l), std::to_string(p.placement.placed[l].num_slots()), figure_text(most, 3),
                      score ? figure_text(score->lower_bound, 3) : "-", figure_text(most_of(linear, l), 3), rows_text(score),
                      rows_text(score_of(linear, l)),
                      std::isnan(most) ? "-" : "rank " + number(place_of_max(p.over_mean_LR[l])),
                      number(num_experts_of(copies, l)), number(num_experts_of(pins, l))});
  }
  return t;
}

ShowTable rank_table(const ShowSubject& s, const ShowFigures& f) {
  ShowTable t{"Ranks over all layers, the highest peak first",
              {">rank", ">node", ">slots", ">memory", ">peak/mean", ">in layer", ">times hottest"},
              {},
              true};
  if (f.placed.empty()) return t;
  const bool loaded = !f.placed[0].score.of_layer.empty();
  for (const RankSums& r : rank_sums(f.placed[0])) {
    const bool known = loaded && !std::isnan(r.worst);
    t.rows.push_back({number(r.rank), std::to_string(s.topology.rank2node[r.rank]), number(r.num_slots),
                      memory_text(s, r.num_slots), known ? figure_text(r.worst) : "-",
                      known ? layer_name(f, r.worst_layer) : "-", loaded ? number(r.times_hottest) : "-"});
  }
  return t;
}

ShowTable copies_table(const ShowFigures& f) {
  ShowTable t{
      "Experts with copies, the most loaded first", {">layer", ">expert", ">load/mean", ">copies", "on ranks"}, {}, true};
  if (f.placed.empty()) return t;
  const auto load = [&](const ExpertPlaces& p) {
    return f.experts_L.empty() ? kUnknown : f.experts_L[p.l].over_mean_E[static_cast<std::size_t>(p.expert)];
  };
  std::vector<ExpertPlaces> all = experts_with_copies(f.placed[0].placement);
  // What is not known goes last, so that the order is one.
  std::stable_sort(all.begin(), all.end(), [&](const ExpertPlaces& a, const ExpertPlaces& b) {
    return load(a) > load(b) || (std::isnan(load(b)) && !std::isnan(load(a)));
  });
  for (const ExpertPlaces& p : all)
    t.rows.push_back(
        {layer_name(f, p.l), std::to_string(p.expert), figure_text(load(p)), number(p.ranks.size()), list_text(p.ranks)});
  return t;
}

ShowTable pins_table(const ShowSubject& s, const ShowFigures& f) {
  ShowTable t{"Pinned experts", {">layer", ">expert", "to ranks"}, {}, true};
  for (const ExpertPlaces& p : pinned_experts(s.plan))
    t.rows.push_back({layer_name(f, p.l), std::to_string(p.expert), list_text(p.ranks)});
  return t;
}

}  // namespace moe
