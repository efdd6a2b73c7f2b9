// move, swap, add, remove, pin, unpin, set: single changes of a plan, in one layer, some or all. Every change is refused
// that cannot mean what was said: a copy that is not there, one that is there already, one that is pinned. A changed plan
// has no predictions. Not here: whether the result is good (moe-place score).
#include <algorithm>
#include <functional>
#include <map>

#include "lib/run/place_edit_parts.h"
#include "lib/run/result.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

struct Copy {
  int expert;
  std::uint8_t pinned;
};

// One layer, rank by rank.
struct Layer {
  int index;  // the model's
  std::vector<std::vector<Copy>> ranks;
  std::int64_t num_changes = 0;

  [[noreturn]] void refuse(const std::string& expected, const std::string& found, const std::string& hint = "") const {
    throw Error(Exit::kUsage, "layer " + std::to_string(index) + ": expected " + expected + ", found " + found, hint);
  }
  std::vector<Copy>& of(int rank) { return ranks[static_cast<std::size_t>(rank)]; }
  static bool holds(const std::vector<Copy>& copies, int expert) {
    return std::any_of(copies.begin(), copies.end(), [=](const Copy& c) { return c.expert == expert; });
  }
  std::vector<int> holders(int expert) const {
    std::vector<int> list;
    for (std::size_t r = 0; r < ranks.size(); ++r)
      if (holds(ranks[r], expert)) list.push_back(static_cast<int>(r));
    return list;
  }
  // The rank that was named (-1: none was), or the only one.
  int rank_of(int expert, int named) const {
    const std::vector<int> list = holders(expert);
    const std::string ranks_of_it = list.empty() ? "it on none" : "it on rank " + ranges_text({list.begin(), list.end()});
    const std::string name = "expert " + std::to_string(expert);
    if (named >= 0 && std::find(list.begin(), list.end(), named) == list.end())
      refuse(name + " on rank " + std::to_string(named), ranks_of_it);
    if (named < 0 && list.size() != 1) refuse(name + " on one rank", ranks_of_it, list.empty() ? "" : "say which rank");
    return named >= 0 ? named : list[0];
  }
  Copy& copy(int expert, int rank) {
    return *std::find_if(of(rank).begin(), of(rank).end(), [=](const Copy& c) { return c.expert == expert; });
  }
  void need_free(int expert, int rank) {
    if (copy(expert, rank).pinned != 0)
      refuse("a copy that may move", "expert " + std::to_string(expert) + " pinned to rank " + std::to_string(rank),
             "unpin it first");
  }
  void need_absent(int expert, int rank) {
    if (holds(of(rank), expert))
      refuse("no expert " + std::to_string(expert) + " on rank " + std::to_string(rank) + " yet", "it there");
  }
  void erase(int expert, int rank) {
    std::vector<Copy>& copies = of(rank);
    copies.erase(std::find_if(copies.begin(), copies.end(), [=](const Copy& c) { return c.expert == expert; }));
  }
};

// The words behind PLAN, read against the size of the plan.
struct Words {
  const std::vector<std::string>& words;
  const Placement& placement;

  std::size_t size() const { return words.size(); }
  int rank(std::size_t i) const { return parse_index(words[i], "rank", placement.num_ranks() - 1); }
  int rank_or_none(std::size_t i) const { return i < words.size() ? rank(i) : -1; }
  int expert(std::size_t i) const { return parse_index(words[i], "expert", placement.num_experts - 1); }
  std::vector<int> experts(std::size_t i) const {
    if (words[i] == "-") return {};
    return parse_indices(words[i], "experts", placement.num_experts - 1);
  }
};

void move(Layer& layer, const Words& w) {
  const int named = w.size() == 5 ? w.rank(3) : -1, to = w.rank(w.size() - 1);
  for (const int expert : w.experts(2)) {
    const int from = layer.rank_of(expert, named);
    layer.need_free(expert, from);
    layer.need_absent(expert, to);
    layer.erase(expert, from);
    layer.of(to).push_back({expert, 0});
    ++layer.num_changes;
  }
}

void swap(Layer& layer, const Words& w) {
  const int a = w.expert(2), b = w.expert(3);
  const int rank_a = layer.rank_of(a, w.rank_or_none(4)), rank_b = layer.rank_of(b, w.rank_or_none(5));
  if (a == b || rank_a == rank_b) layer.refuse("two experts on two ranks", "both on rank " + std::to_string(rank_a));
  layer.need_free(a, rank_a);
  layer.need_free(b, rank_b);
  layer.need_absent(a, rank_b);
  layer.need_absent(b, rank_a);
  std::swap(layer.copy(a, rank_a), layer.copy(b, rank_b));
  layer.num_changes += 2;
}

void add(Layer& layer, const Words& w) {
  const int rank = w.rank(3);
  for (const int expert : w.experts(2)) {
    layer.need_absent(expert, rank);
    layer.of(rank).push_back({expert, 0});
    ++layer.num_changes;
  }
}

void remove(Layer& layer, const Words& w) {
  for (const int expert : w.experts(2)) {
    const int rank = layer.rank_of(expert, w.rank_or_none(3));
    layer.need_free(expert, rank);
    layer.erase(expert, rank);
    ++layer.num_changes;
  }
}

// Without RANK all copies of the expert.
void set_pins(Layer& layer, const Words& w, std::uint8_t pinned) {
  for (const int expert : w.experts(2)) {
    const int named = w.rank_or_none(3);
    const std::vector<int> holders = layer.holders(expert);
    const bool all = named < 0 && !holders.empty();
    for (const int rank : all ? holders : std::vector<int>{layer.rank_of(expert, named)}) {
      Copy& copy = layer.copy(expert, rank);
      layer.num_changes += copy.pinned != pinned;
      copy.pinned = pinned;
    }
  }
}

// RANK LIST, as often as one likes; what was pinned there and stays keeps its pin.
void set(Layer& layer, const Words& w) {
  std::map<int, bool> done;
  for (std::size_t i = 2; i + 1 < w.size(); i += 2) {
    const int rank = w.rank(i);
    if (!done.insert({rank, true}).second)
      throw Error(Exit::kUsage, "set: expected each rank once, found rank " + std::to_string(rank) + " again");
    std::vector<Copy> copies;
    for (const int expert : w.experts(i + 1)) {
      const bool had = Layer::holds(layer.of(rank), expert);
      copies.push_back({expert, had ? layer.copy(expert, rank).pinned : std::uint8_t{0}});
      layer.num_changes += !had;
    }
    for (const Copy& old : layer.of(rank))
      if (!Layer::holds(copies, old.expert)) {
        layer.need_free(old.expert, rank);
        ++layer.num_changes;
      }
    layer.of(rank) = std::move(copies);
  }
}

struct Change {
  std::size_t least, most;  // words
  const char* usage;
  std::function<void(Layer&, const Words&)> apply;
};
const std::map<std::string, Change>& changes() {
  static const std::map<std::string, Change> all = {
      {"move", {4, 5, "PLAN LAYER EXPERT [FROM] TO", move}},
      {"swap", {4, 6, "PLAN LAYER EXPERT_A EXPERT_B [RANK_A RANK_B]", swap}},
      {"add", {4, 4, "PLAN LAYER EXPERT RANK", add}},
      {"remove", {3, 4, "PLAN LAYER EXPERT [RANK]", remove}},
      {"pin", {3, 4, "PLAN LAYER EXPERT [RANK]", [](Layer& l, const Words& w) { set_pins(l, w, 1); }}},
      {"unpin", {3, 4, "PLAN LAYER EXPERT [RANK]", [](Layer& l, const Words& w) { set_pins(l, w, 0); }}},
      {"set", {4, SIZE_MAX, "PLAN LAYER RANK LIST [RANK LIST]...", set}},
  };
  return all;
}

Layer layer_of(const PlanFile& plan, std::size_t l) {
  Layer layer{plan.placement.layers[l], {}};
  std::size_t slot = 0;
  for (const std::vector<int>& experts : plan.placement.placed[l].rank2experts) {
    layer.ranks.emplace_back();
    for (const int e : experts) layer.ranks.back().push_back({e, plan.pinned_LS[l][slot++]});
  }
  return layer;
}

void put_layer(PlanFile& plan, std::size_t l, const Layer& layer) {
  plan.pinned_LS[l].clear();
  for (std::size_t r = 0; r < layer.ranks.size(); ++r) {
    std::vector<int>& experts = plan.placement.placed[l].rank2experts[r];
    experts.clear();
    for (const Copy& copy : layer.ranks[r]) {
      experts.push_back(copy.expert);
      plan.pinned_LS[l].push_back(copy.pinned);
    }
  }
}

// Places in plan.placement.layers of "all", "3" or "0-2,5".
std::vector<std::size_t> places_of(const std::string& word, const Placement& p) {
  std::vector<std::size_t> places;
  if (word == "all") {
    for (std::size_t l = 0; l < p.layers.size(); ++l) places.push_back(l);
    return places;
  }
  for (const int layer : parse_indices(word, "layer", (1 << 20) - 1)) {
    const auto at = std::lower_bound(p.layers.begin(), p.layers.end(), layer);
    if (at == p.layers.end() || *at != layer)
      throw Error(Exit::kUsage, "layer: expected one of " + ranges_text({p.layers.begin(), p.layers.end()}) +
                                    " or all, found " + std::to_string(layer));
    places.push_back(static_cast<std::size_t>(at - p.layers.begin()));
  }
  return places;
}

}  // namespace

Exit change_plan(const EditCall& call) {
  const Change& change = changes().at(call.command);
  need_words(call, change.least, change.most, change.usage);
  if ((call.command == "set" && call.words.size() % 2 != 0) || (call.command == "swap" && call.words.size() == 5))
    need_words(call, 0, 0, change.usage);
  const OpenedPlan opened = open_plan(call, call.words[0]);
  PlanFile plan = opened.plan;
  std::int64_t num_changes = 0;
  const std::vector<std::size_t> places = places_of(call.words[1], plan.placement);
  for (const std::size_t l : places) {
    Layer layer = layer_of(plan, l);
    change.apply(layer, {call.words, plan.placement});
    put_layer(plan, l, layer);
    num_changes += layer.num_changes;
  }
  if (num_changes > 0) plan.predicted = nullptr;
  const std::string saved = save_plan(call, plan, &opened);
  const auto num_layers = static_cast<std::int64_t>(places.size());
  print_result(call.common, {{"kind", "moe-place " + call.command}, {"changes", num_changes}, {"layers", num_layers}},
               call.command + ": " + thousands(num_changes) + (num_changes == 1 ? " change in " : " changes in ") +
                   thousands(num_layers) + (num_layers == 1 ? " layer: " : " layers: ") + size_text(plan) + "\n" + saved);
  return Exit::kOk;
}

}  // namespace moe
