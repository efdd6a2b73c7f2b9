// diff: what changing from plan A to plan B moves: copies that a rank gets, inside its node or between nodes, with
// --expert-bytes in bytes and with --inter-mbit in time on the busiest link. Exit 3 if they differ. Not here: which of the
// two is better (moe-place score).
#include <algorithm>
#include <map>

#include "lib/base/byte_size.h"
#include "lib/place/score.h"
#include "lib/run/place_edit_parts.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

struct LayerCounts {
  std::int64_t inside = 0, between = 0, dropped = 0, pins = 0;
  bool any() const { return inside + between + dropped + pins > 0; }
};

struct Difference {
  std::vector<Move> moves;
  std::map<int, LayerCounts> of_layer;  // by the model's index
  LayerCounts all;
  std::int64_t busiest_copies = 0;  // that enter or leave the busiest node
  bool same_topology = true, same_order = true;

  bool same() const { return !all.any() && same_topology && same_order; }
};

void need_same_shape(const OpenedPlan& a, const OpenedPlan& b) {
  const Placement &p = a.plan.placement, &q = b.plan.placement;
  const auto layers = [](const Placement& x) { return ranges_text({x.layers.begin(), x.layers.end()}); };
  const auto need = [&](bool good, const std::string& in_a, const std::string& in_b) {
    if (!good) throw Error(Exit::kBadInput, b.path + ": expected " + in_a + " as in " + a.path + ", found " + in_b);
  };
  need(p.num_experts == q.num_experts, std::to_string(p.num_experts) + " experts", std::to_string(q.num_experts));
  need(p.layers == q.layers, "layers " + layers(p), layers(q));
  need(p.num_ranks() == q.num_ranks(), std::to_string(p.num_ranks()) + " ranks", std::to_string(q.num_ranks()));
}

// (expert, rank) of the slots of a layer that `keep` says, sorted.
template <class Keep>
std::vector<std::pair<int, int>> copies_of(const LayerPlacement& layer, Keep keep) {
  const std::vector<int> slot2expert = layer.slot2expert(), slot2rank = layer.slot2rank();
  std::vector<std::pair<int, int>> list;
  for (std::size_t s = 0; s < slot2expert.size(); ++s)
    if (keep(s)) list.emplace_back(slot2expert[s], slot2rank[s]);
  std::sort(list.begin(), list.end());
  return list;
}

template <class List>
std::int64_t num_missing(const List& from, const List& in) {
  List gone;
  std::set_difference(from.begin(), from.end(), in.begin(), in.end(), std::back_inserter(gone));
  return static_cast<std::int64_t>(gone.size());
}

void count_layer(const PlanFile& a, const PlanFile& b, std::size_t l, LayerCounts& counts) {
  const LayerPlacement &x = a.placement.placed[l], &y = b.placement.placed[l];
  const auto every = [](std::size_t) { return true; };
  const auto pinned_in = [l](const PlanFile& plan) {
    return [&plan, l](std::size_t s) { return plan.pinned_LS[l][s] != 0; };
  };
  counts.dropped = num_missing(copies_of(x, every), copies_of(y, every));
  const auto pins_a = copies_of(x, pinned_in(a)), pins_b = copies_of(y, pinned_in(b));
  counts.pins = num_missing(pins_a, pins_b) + num_missing(pins_b, pins_a);
}

Difference compare(const PlanFile& a, const PlanFile& b) {
  Difference d;
  d.same_topology = a.rank2node == b.rank2node;
  d.moves = moves(a.placement, b.placement, {b.rank2node});
  std::vector<std::int64_t> in_N(static_cast<std::size_t>(b.rank2node.back()) + 1), out_N = in_N;
  for (std::size_t l = 0; l < a.placement.layers.size(); ++l) count_layer(a, b, l, d.of_layer[a.placement.layers[l]]);
  for (const Move& m : d.moves) {
    const auto node = [&](int rank) { return static_cast<std::size_t>(b.rank2node[static_cast<std::size_t>(rank)]); };
    const bool crosses = node(m.from_rank) != node(m.to_rank);
    ++(crosses ? d.of_layer[m.layer].between : d.of_layer[m.layer].inside);
    if (crosses) d.busiest_copies = std::max({d.busiest_copies, ++in_N[node(m.to_rank)], ++out_N[node(m.from_rank)]});
  }
  for (const auto& [layer, c] : d.of_layer)
    d.all = {d.all.inside + c.inside, d.all.between + c.between, d.all.dropped + c.dropped, d.all.pins + c.pins};
  d.same_order = d.all.any() || a.placement == b.placement;
  return d;
}

struct Costs {
  std::int64_t expert_bytes;
  double seconds;  // negative: not known
};

Costs costs_of(const Difference& d, const PlaceEditOptions& edit) {
  const double bytes = static_cast<double>(d.busiest_copies) * static_cast<double>(edit.expert_bytes);
  const bool known = edit.inter_mbit > 0 && edit.expert_bytes > 0;
  return {edit.expert_bytes, known ? bytes * 8 / (edit.inter_mbit * 1e6) : -1};
}

std::string amount(std::int64_t copies, const Costs& costs) {
  return thousands(copies) + (copies == 1 ? " copy" : " copies") +
         (costs.expert_bytes > 0 ? ", " + bytes_text(static_cast<double>(copies) * static_cast<double>(costs.expert_bytes))
                                 : "");
}

std::string moves_text(const std::vector<Move>& moves) {
  TextTable table({">layer", ">expert", ">from rank", ">to rank"});
  for (const Move& m : moves) {
    const auto text = [](int n) { return std::to_string(n); };
    table.add({text(m.layer), text(m.expert), text(m.from_rank), text(m.to_rank)});
  }
  return table.text();
}

std::string text_of(const OpenedPlan& a, const OpenedPlan& b, const Difference& d, const Costs& costs, bool verbose) {
  std::string text = "A " + a.path + "  " + size_text(a.plan) + "\nB " + b.path + "  " + size_text(b.plan) + "\n";
  if (d.same()) return text + "The same.\n";
  if (!d.same_topology)
    text +=
        labelled("topology", topology_text({a.plan.rank2node}) + " in A, " + topology_text({b.plan.rank2node}) + " in B");
  if (!d.same_order) text += labelled("order", "the same places; only the order of slots on a rank differs");
  if (d.all.any()) {
    text += labelled("in a node", amount(d.all.inside, costs)) + labelled("between nodes", amount(d.all.between, costs)) +
            labelled("dropped", amount(d.all.dropped, costs));
    if (d.all.pins > 0) text += labelled("pins", thousands(d.all.pins) + " differ");
    text += labelled("time", costs.seconds >= 0 ? short_float(costs.seconds) + " s on the busiest link between nodes"
                                                : "not known (--expert-bytes N with --inter-mbit B)");
    TextTable table({">layer", ">in a node", ">between nodes", ">dropped", ">pins"});
    for (const auto& [layer, c] : d.of_layer)
      if (c.any())
        table.add(
            {std::to_string(layer), thousands(c.inside), thousands(c.between), thousands(c.dropped), thousands(c.pins)});
    text += "\n" + table.text();
  }
  return text + (verbose && !d.moves.empty() ? "\n" + moves_text(d.moves) : "");
}

json json_of(const OpenedPlan& a, const OpenedPlan& b, const Difference& d, const Costs& costs) {
  json layers = json::array(), list = json::array();
  const auto counts = [](const LayerCounts& c) -> json {
    return {{"inside_nodes", c.inside}, {"between_nodes", c.between}, {"dropped", c.dropped}, {"pins", c.pins}};
  };
  for (const auto& [layer, c] : d.of_layer) {
    layers.push_back(counts(c));
    layers.back()["layer"] = layer;
  }
  for (const Move& m : d.moves)
    list.push_back({{"layer", m.layer}, {"expert", m.expert}, {"from_rank", m.from_rank}, {"to_rank", m.to_rank}});
  json result = {
      {"kind", "moe-place diff"}, {"a", a.path},      {"b", b.path},  {"same", d.same()}, {"same_topology", d.same_topology},
      {"copies", counts(d.all)},  {"layers", layers}, {"moves", list}};
  if (costs.expert_bytes > 0) {
    result["bytes_inside_nodes"] = d.all.inside * costs.expert_bytes;
    result["bytes_between_nodes"] = d.all.between * costs.expert_bytes;
  }
  if (costs.seconds >= 0) result["seconds"] = costs.seconds;
  return result;
}

}  // namespace

Exit diff_plans(const EditCall& call) {
  need_words(call, 2, 2, "A B");
  const OpenedPlan a = open_plan(call, call.words[0]), b = open_plan(call, call.words[1]);
  need_same_shape(a, b);
  const Difference d = compare(a.plan, b.plan);
  const Costs costs = costs_of(d, call.edit);
  print_result(call.common, json_of(a, b, d, costs), text_of(a, b, d, costs, call.common.verbose));
  return d.same() ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
