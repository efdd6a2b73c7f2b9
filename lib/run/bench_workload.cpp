#include "lib/run/bench_workload.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "lib/base/error.h"
#include "lib/base/rng.h"

namespace moe {
namespace {

constexpr int kBurstPeriod = 4;

// Random numbers one after the other.
class Dice {
 public:
  Dice(std::uint64_t seed, const std::string& name) : rng_(seed, name) {}
  std::uint64_t below(std::uint64_t n) { return rng_.bits(next_++) % n; }

 private:
  Rng rng_;
  std::uint64_t next_ = 0;
};

// Every expert once, then again in another order: what is drawn is balanced, and each rank begins elsewhere.
class Deck {
 public:
  Deck(int num_experts, Dice& dice) : dice_(dice), order_(static_cast<std::size_t>(num_experts)) {
    std::iota(order_.begin(), order_.end(), 0);
    shuffle();
  }
  std::int32_t draw() {
    if (next_ == order_.size()) shuffle();
    return order_[next_++];
  }
  // The expert i places behind the last drawn.
  std::int32_t behind(std::size_t i) const { return order_[(next_ + i) % order_.size()]; }
  std::size_t size() const { return order_.size(); }

 private:
  void shuffle() {
    for (std::size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[dice_.below(i)]);
    next_ = 0;
  }
  Dice& dice_;
  std::vector<std::int32_t> order_;
  std::size_t next_ = 0;
};

// The experts of one token: different ones, on at most max_nodes nodes.
class Choice {
 public:
  Choice(const std::vector<int>& expert2node, int max_nodes) : expert2node_(expert2node), max_nodes_(max_nodes) {}

  void clear() { experts_.clear(), nodes_.clear(); }
  bool take(std::int32_t e) {
    if (std::find(experts_.begin(), experts_.end(), e) != experts_.end()) return false;
    const int node = expert2node_[static_cast<std::size_t>(e)];
    if (std::find(nodes_.begin(), nodes_.end(), node) == nodes_.end()) {
      if (max_nodes_ > 0 && static_cast<int>(nodes_.size()) == max_nodes_) return false;
      nodes_.push_back(node);
    }
    experts_.push_back(e);
    return true;
  }
  void take_next_of(const Deck& deck) {
    for (std::size_t i = 0; i < deck.size(); ++i)
      if (take(deck.behind(i))) return;
    throw Error(Exit::kInternal, "bench: expected another expert for a token, found none");
  }
  const std::vector<std::int32_t>& experts() const { return experts_; }

 private:
  const std::vector<int>& expert2node_;
  int max_nodes_;
  std::vector<std::int32_t> experts_;
  std::vector<int> nodes_;
};

std::vector<int> nodes_of_experts(const WorkloadShape& s) {
  std::vector<int> expert2node;
  for (const int r : s.map.expert2rank) expert2node.push_back(s.rank2node[static_cast<std::size_t>(r)]);
  return expert2node;
}

// Whatever nodes the first choices fall on, top_k experts must be there.
void expect_room(const WorkloadShape& s) {
  std::vector<std::int64_t> experts_n(s.rank2node.size());
  for (const int node : nodes_of_experts(s)) {
    if (static_cast<std::size_t>(node) >= experts_n.size()) experts_n.resize(static_cast<std::size_t>(node) + 1);
    ++experts_n[static_cast<std::size_t>(node)];
  }
  std::erase(experts_n, 0);
  std::sort(experts_n.begin(), experts_n.end());
  const std::size_t limit = s.max_nodes > 0 ? static_cast<std::size_t>(s.max_nodes) : experts_n.size();
  const auto end = experts_n.begin() + static_cast<std::ptrdiff_t>(std::min(limit, experts_n.size()));
  const std::int64_t room = std::accumulate(experts_n.begin(), end, std::int64_t{0});
  if (room >= s.top_k) return;
  throw Error(Exit::kUsage,
              "--max-nodes-per-token: expected room for the " + std::to_string(s.top_k) +
                  " experts of a token, found nodes that hold " + std::to_string(room),
              "raise it, or lower --top-k");
}

// The first rank from `rank` on that holds experts.
const std::vector<int>& experts_from(const ExpertMap& map, int rank) {
  for (int i = 0; i < map.num_ranks(); ++i)
    if (const auto& experts = map.rank2experts[static_cast<std::size_t>((rank + i) % map.num_ranks())]; !experts.empty())
      return experts;
  throw Error(Exit::kInternal, "bench: expected a rank with experts, found none");
}

}  // namespace

std::string name_of(Workload w) { return "W" + std::to_string(static_cast<int>(w)); }

const char* description_of(Workload w) {
  static constexpr const char* kTexts[kNumWorkloads] = {
      "balanced",       "hot expert set",        "hot rank",         "one hot expert on each rank",
      "ragged sources", "a rank without tokens", "rotating hotspot", "burst: a hot rank in every 4th repetition"};
  return kTexts[static_cast<int>(w)];
}

WorkloadSource::WorkloadSource(Workload workload, const WorkloadShape& shape) : workload_(workload), shape_(shape) {
  expect_room(shape_);
}

std::int64_t WorkloadSource::num_tokens(int rank) const {
  const int n = num_ranks();
  if (workload_ == Workload::kRagged) return 2 * shape_.num_tokens * (rank + 1) / (n + 1);
  if (workload_ == Workload::kEmptyRank && n > 1 && rank == n - 1) return 0;
  return shape_.num_tokens;
}

std::int64_t RowSource::most_tokens() const {
  std::int64_t most = 0;
  for (int r = 0; r < num_ranks(); ++r) most = std::max(most, num_tokens(r));
  return most;
}

int WorkloadSource::period() const {
  return workload_ == Workload::kRotatingHotspot ? num_ranks() : workload_ == Workload::kBurst ? kBurstPeriod : 1;
}

std::vector<std::int32_t> WorkloadSource::hot_experts(int repetition) const {
  const ExpertMap& map = shape_.map;
  const int E = map.num_experts(), middle = num_ranks() / 2;
  std::vector<std::int32_t> hot;
  const auto all_of = [&](int rank) {
    const auto& experts = experts_from(map, rank);
    hot.assign(experts.begin(), experts.end());
  };
  if (workload_ == Workload::kHotExperts)
    for (int i = 0; i < std::max(1, E / 8); ++i) hot.push_back((E / 3 + i) % E);
  if (workload_ == Workload::kHotRank || (workload_ == Workload::kBurst && repetition == 0)) all_of(middle);
  if (workload_ == Workload::kRotatingHotspot) all_of(repetition);
  if (workload_ == Workload::kSpreadHot)
    for (const auto& experts : map.rank2experts)
      if (!experts.empty()) hot.push_back(experts.front());
  return hot;
}

std::vector<std::int32_t> WorkloadSource::route(int rank, int repetition) const {
  repetition %= period();
  Dice dice(shape_.seed, "bench " + name_of(workload_) + " group " + std::to_string(shape_.group) + " rank " +
                             std::to_string(rank) + " repetition " + std::to_string(repetition));
  const std::vector<std::int32_t> hot = hot_experts(repetition);
  const std::vector<int> expert2node = nodes_of_experts(shape_);
  Deck deck(shape_.map.num_experts(), dice);
  Choice choice(expert2node, shape_.max_nodes);
  std::vector<std::int32_t> idx_N;
  idx_N.reserve(static_cast<std::size_t>(num_tokens(rank) * shape_.top_k));
  for (std::int64_t t = 0; t < num_tokens(rank); ++t) {
    choice.clear();
    for (int k = 0; k < shape_.top_k; ++k) {
      const bool is_hot = !hot.empty() && dice.below(4) != 0;
      if (!choice.take(is_hot ? hot[dice.below(hot.size())] : deck.draw())) choice.take_next_of(deck);
    }
    idx_N.insert(idx_N.end(), choice.experts().begin(), choice.experts().end());
  }
  return idx_N;
}

std::int64_t NodeTraffic::rows() const { return std::accumulate(sent_n.begin(), sent_n.end(), std::int64_t{0}); }
std::int64_t NodeTraffic::busiest() const {
  return std::max(*std::max_element(sent_n.begin(), sent_n.end()), *std::max_element(received_n.begin(), received_n.end()));
}

void add_node_traffic(const std::vector<std::int32_t>& idx_N, int top_k, int source_node, const ExpertMap& map,
                      const std::vector<int>& rank2node, DispatchMode mode, NodeTraffic& traffic) {
  std::vector<int> ranks, nodes;
  const auto is_new = [](std::vector<int>& seen, int x) {
    if (std::find(seen.begin(), seen.end(), x) != seen.end()) return false;
    seen.push_back(x);
    return true;
  };
  for (std::size_t begin = 0; begin < idx_N.size(); begin += static_cast<std::size_t>(top_k)) {
    ranks.clear(), nodes.clear();
    for (std::size_t i = begin; i < begin + static_cast<std::size_t>(top_k); ++i) {
      if (idx_N[i] < 0) continue;
      const int rank = map.expert2rank[static_cast<std::size_t>(idx_N[i])], node = rank2node[static_cast<std::size_t>(rank)];
      if (node == source_node) continue;
      const bool new_rank = is_new(ranks, rank), new_node = is_new(nodes, node);
      traffic.least += new_node;
      if (!(mode == DispatchMode::kFlat ? new_rank : new_node)) continue;
      ++traffic.sent_n[static_cast<std::size_t>(source_node)];
      ++traffic.received_n[static_cast<std::size_t>(node)];
    }
  }
}

}  // namespace moe
