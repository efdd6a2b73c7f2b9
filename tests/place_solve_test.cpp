// The solver: what it promises of every plan, against EPLB, bounds and score() on synthetic loads and topologies.
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/base/error.h"
#include "lib/place/eplb.h"
#include "lib/place/node_counts.h"
#include "lib/place/solve.h"
#include "tests/random.h"

namespace moe {
namespace {

// Zipf loads in an order chosen by lot.
std::vector<double> zipf(int num_experts, double exponent, std::uint64_t seed) {
  std::vector<double> load;
  for (int e = 0; e < num_experts; ++e) load.push_back(std::floor(1e5 / std::pow(e + 1, exponent)));
  const std::vector<std::int32_t> lot = random_ints(load.size(), seed, 0, 1 << 30);
  for (std::size_t e = load.size(); e-- > 1;) std::swap(load[e], load[static_cast<std::size_t>(lot[e]) % (e + 1)]);
  return load;
}

Loads zipf_loads(int num_layers, int num_experts, double exponent) {
  Loads loads;
  loads.num_experts = num_experts;
  for (int l = 0; l < num_layers; ++l) {
    loads.layers.push_back(2 * l + 1);
    loads.of_layer.emplace_back().load_E = zipf(num_experts, exponent, static_cast<std::uint64_t>(l));
  }
  return loads;
}

// Tokens of num_topics kinds: each takes most of its experts from those of its topic, which are spread over the ids.
Loads topical_loads(int num_layers, int num_experts, int top_k, int num_topics, std::size_t num_tokens) {
  Loads loads;
  loads.num_experts = num_experts;
  loads.top_k = top_k;
  for (int l = 0; l < num_layers; ++l) {
    loads.layers.push_back(l);
    LayerLoads& layer = loads.of_layer.emplace_back();
    layer.load_E.resize(static_cast<std::size_t>(num_experts));
    layer.num_tokens = static_cast<double>(num_tokens);
    const auto bits = random_ints(num_tokens * 64, static_cast<std::uint64_t>(l) + 77, 0, 1 << 30);
    std::size_t draw = 0;
    for (std::size_t t = 0; t < num_tokens; ++t) {
      std::vector<std::int32_t> mine;
      const int topic = bits[t * 64] % num_topics;
      for (draw = t * 64 + 1; static_cast<int>(mine.size()) < top_k; ++draw) {
        const int any = bits[draw] % num_experts;
        const int e = bits[draw] / 1024 % 8 == 0 ? any : any / num_topics * num_topics + topic;
        if (e < num_experts && std::find(mine.begin(), mine.end(), e) == mine.end()) mine.push_back(e);
      }
      for (const int e : mine) ++layer.load_E[static_cast<std::size_t>(e)];
      layer.sample_TK.insert(layer.sample_TK.end(), mine.begin(), mine.end());
    }
  }
  return loads;
}

std::vector<double> coactivation(const LayerLoads& layer, int top_k) {
  const std::size_t num = layer.load_E.size(), k = static_cast<std::size_t>(top_k);
  std::vector<double> pairs(num * num);
  for (std::size_t t = 0; t < layer.sample_TK.size(); t += k)
    for (std::size_t i = 0; i < k; ++i)
      for (std::size_t j = 0; j < k; ++j)
        ++pairs[static_cast<std::size_t>(layer.sample_TK[t + i]) * num + static_cast<std::size_t>(layer.sample_TK[t + j])];
  return pairs;
}

SolveRequest request_for(const std::string& topology, int num_slots = 0) {
  SolveRequest r;
  r.topology = parse_topology(topology);
  r.num_slots = num_slots;
  return r;
}

double balance(const LayerPlacement& placed, const LayerLoads& loads, const Topology& topology) {
  return max_over_mean(rank_loads(placed, loads, topology));
}

void expect_whole(const Placement& plan, int num_slots) {
  EXPECT_THAT(placement_faults(plan), testing::IsEmpty());
  for (const LayerPlacement& layer : plan.placed) EXPECT_EQ(layer.num_slots(), num_slots);
}

struct Case {
  int experts, slots, groups, nodes, ranks;
  double exponent;
};

// Shapes of known models and awkward ones. EPLB needs slots in a multiple of the ranks; it may put copies together.
TEST(Solve, NeverWorseThanEplb) {
  for (const Case& c : {Case{64, 72, 8, 1, 8, 0.5}, Case{64, 64, 8, 2, 8, 1.0}, Case{128, 160, 8, 2, 16, 0.5},
                        Case{256, 288, 8, 4, 32, 0.5}, Case{256, 288, 8, 18, 144, 1.0}, Case{12, 16, 4, 2, 8, 0.7},
                        Case{7, 14, 7, 1, 7, 1.5}, Case{8, 8, 1, 1, 8, 1.0}, Case{9, 9, 1, 1, 1, 1.0}}) {
    const Loads loads = zipf_loads(3, c.experts, c.exponent);
    const SolveRequest r =
        request_for("node:" + std::to_string(c.nodes) + " rank:" + std::to_string(c.ranks / c.nodes), c.slots);
    const Placement plan = solve(loads, r);
    expect_whole(plan, c.slots);
    for (std::size_t l = 0; l < plan.placed.size(); ++l) {
      const LayerPlacement eplb = eplb_layer(loads.of_layer[l].load_E, c.slots, c.groups, c.nodes, c.ranks);
      const double own = balance(plan.placed[l], loads.of_layer[l], r.topology);
      EXPECT_LE(own, balance(eplb, loads.of_layer[l], r.topology) * (1 + 1e-12)) << c.experts << " on " << c.ranks;
      EXPECT_GE(own, lower_bound(loads.of_layer[l].load_E, c.slots, c.ranks, c.slots / c.ranks) * (1 - 1e-12));
    }
  }
}

// One copy of each expert: where the bound leaves room, at most 1 % above even.
TEST(Solve, PermutationsComeNearTheBound) {
  for (const auto& [experts, ranks] : {std::pair(64, 8), std::pair(128, 16), std::pair(256, 32), std::pair(256, 64)}) {
    const Loads loads = zipf_loads(4, experts, 0.5);
    const SolveRequest r = request_for("rank:" + std::to_string(ranks));
    const Placement plan = solve(loads, r);
    expect_whole(plan, experts);
    for (std::size_t l = 0; l < plan.placed.size(); ++l) {
      const double bound = lower_bound(loads.of_layer[l].load_E, experts, ranks, experts / ranks);
      EXPECT_LE(balance(plan.placed[l], loads.of_layer[l], r.topology), 1.01 * bound) << experts << " on " << ranks;
    }
  }
}

// All placements of few experts: the search finds the best.
TEST(Solve, FindsTheBestOfSmallProblems) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Loads loads;
    loads.num_experts = 6;
    loads.layers = {0};
    for (const std::int32_t w : random_ints(6, seed, 1, 100))
      loads.of_layer.resize(1), loads.of_layer[0].load_E.push_back(w);
    const SolveRequest r = request_for("rank:3");
    double best = INFINITY;
    std::vector<int> order = {0, 1, 2, 3, 4, 5};
    do {
      best = std::min(best, balance(layer_of_slots(order, std::vector<int>{2, 2, 2}), loads.of_layer[0], r.topology));
    } while (std::next_permutation(order.begin(), order.end()));
    EXPECT_LE(balance(solve(loads, r).placed[0], loads.of_layer[0], r.topology), best * (1 + 1e-4)) << seed;
  }
}

TEST(Solve, DoesNotDependOnThreads) {
  for (const Objective objective : {Objective::kBalance, Objective::kTraffic}) {
    const Loads loads = topical_loads(5, 24, 3, 4, 400);
    SolveRequest r = request_for("node:2 rank:3,2", 29);
    r.objective = objective;
    const Placement one = solve(loads, r);
    r.num_threads = 2;
    EXPECT_EQ(solve(loads, r), one);
    expect_whole(one, 29);
  }
}

TEST(Solve, EmptyAndEqualLoads) {
  Loads loads = zipf_loads(1, 8, 1);
  loads.of_layer[0].load_E.assign(8, 0.0);
  expect_whole(solve(loads, request_for("rank:4", 12)), 12);
  loads.of_layer[0].load_E.assign(8, 5.0);
  expect_whole(solve(loads, request_for("rank:3")), 8);
  expect_whole(solve(loads, request_for("rank:16", 16)), 16);
  loads.of_layer[0].load_E = {100, 0, 0, 0, 0, 0, 0, 0};
  const Placement plan = solve(loads, request_for("rank:4", 12));
  expect_whole(plan, 12);
  EXPECT_DOUBLE_EQ(balance(plan.placed[0], loads.of_layer[0], parse_topology("rank:4")), 1);
}

TEST(Solve, KeepsPinsAndMemory) {
  const Loads loads = zipf_loads(2, 16, 1.0);
  SolveRequest r = request_for("node:2 rank:3,1", 18);
  r.max_slots_R = {6, 2, 6, 6};
  r.pins = {{1, 3, 0}, {1, 4, 0}, {1, 3, 1}, {3, 0, 3}};
  const Placement plan = solve(loads, r);
  expect_whole(plan, 18);
  const auto holds = [&](std::size_t layer, std::size_t rank, int expert) {
    const auto& experts = plan.placed[layer].rank2experts[rank];
    return std::find(experts.begin(), experts.end(), expert) != experts.end();
  };
  EXPECT_TRUE(holds(0, 0, 3) && holds(0, 0, 4) && holds(0, 1, 3) && holds(1, 3, 0));
  for (const LayerPlacement& layer : plan.placed) EXPECT_LE(layer.rank2experts[1].size(), 2U);
  r.max_slots_R = {4, 2, 4, 4};
  EXPECT_THROW(solve(loads, r), Error);
}

TEST(Solve, KeepsGroupsInNodes) {
  Loads loads = topical_loads(2, 24, 4, 3, 300);
  for (const Objective objective : {Objective::kBalance, Objective::kTraffic})
    for (const int num_slots : {24, 30}) {
      SolveRequest r = request_for("node:3 rank:2", num_slots);
      r.objective = objective;
      r.num_groups = 6;
      r.keep_groups = true;
      const Placement plan = solve(loads, r);
      expect_whole(plan, num_slots);
      for (const LayerPlacement& layer : plan.placed) {
        std::vector<int> node_G(6, -1);
        for (int rank = 0; rank < 6; ++rank)
          for (const int e : layer.rank2experts[static_cast<std::size_t>(rank)]) {
            int& node = node_G[static_cast<std::size_t>(e / 4)];
            EXPECT_TRUE(node < 0 || node == rank / 2) << "group " << e / 4;
            node = rank / 2;
          }
      }
    }
}

std::int64_t num_moves(const Placement& before, const Placement& after, const Topology& topology) {
  return static_cast<std::int64_t>(moves(before, after, topology).size());
}

TEST(Solve, KeepsTheMoveBudget) {
  const Loads loads = zipf_loads(6, 64, 0.8);
  SolveRequest r = request_for("node:2 rank:4");
  const Placement linear = linear_placement(loads.layers, 64, 8);
  r.from = &linear;
  const auto mean = [&](const Placement& p) { return score(p, loads, r.topology, {}, 0).mean_max_over_mean; };
  double before = mean(linear);
  r.move_budget = 0;
  EXPECT_EQ(solve(loads, r), linear);
  for (const std::int64_t budget : {1, 4, 16, 64, 200}) {
    r.move_budget = budget;
    const Placement plan = solve(loads, r);
    expect_whole(plan, 64);
    EXPECT_LE(num_moves(linear, plan, r.topology), budget);
    EXPECT_LE(mean(plan), before);
    if (budget > 1) {
      EXPECT_LT(mean(plan), before) << budget;
    }
    before = mean(plan);
  }
  r.move_budget = -1;
  const double freely = mean(solve(loads, r));
  r.from = nullptr;
  EXPECT_LE(freely, mean(solve(loads, r)) * 1.0011);
}

// The counts that the search keeps equal score()'s figure, before and after any exchanges, and so do predicted changes.
TEST(NodeCounts, EqualTheScore) {
  const Topology topology = parse_topology("node:3 rank:2,1,3");
  const Loads loads = topical_loads(1, 12, 3, 3, 200);
  LayerPlacement placed =
      layer_of_slots(std::vector<int>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0}, std::vector<int>{2, 2, 3, 2, 2, 2});
  std::vector<double> share_EN(12 * 3);
  for (int r = 0; r < 6; ++r)
    for (const int e : placed.rank2experts[static_cast<std::size_t>(r)])
      share_EN[static_cast<std::size_t>(e * 3 + topology.rank2node[static_cast<std::size_t>(r)])] += e == 0 ? 0.5 : 1;
  const TokenList tokens = tokens_of(loads.of_layer[0], 3);
  NodeCounts counts(tokens, share_EN, topology);
  const auto figure = [&] { return 200 * inter_node_rows_per_token(placed, loads.of_layer[0], 3, topology); };
  ASSERT_NEAR(counts.rows(), figure(), 1e-4);
  const auto lot = random_ints(80, 5, 1, 12);
  for (std::size_t i = 0; i < lot.size(); i += 2) {
    const int e = lot[i], f = lot[i + 1];
    if (counts.node_of(e) == counts.node_of(f)) continue;
    const double expected = counts.rows() + counts.after_exchange(e, f);
    EXPECT_LE(counts.at_best_after_exchange(e, f), counts.after_exchange(e, f) + 1e-9);
    counts.exchange(e, f);
    for (auto& experts : placed.rank2experts)
      for (int& x : experts) x = x == e ? f : x == f ? e : x;
    ASSERT_NEAR(counts.rows(), expected, 1e-4);
    ASSERT_NEAR(counts.rows(), figure(), 1e-4) << "after exchange " << i / 2;
  }
}

TEST(SolveTraffic, GathersTopics) {
  Loads loads = topical_loads(2, 32, 4, 4, 1000);
  SolveRequest r = request_for("node:4 rank:2");
  r.objective = Objective::kTraffic;
  const Placement linear = linear_placement(loads.layers, 32, 8);
  const auto rows = [&](const Placement& p) { return score(p, loads, r.topology, {}, 0).inter_node_rows_per_token; };
  const Placement plan = solve(loads, r);
  expect_whole(plan, 32);
  EXPECT_LT(rows(plan), 0.6 * rows(linear));
  const Loads sampled = loads;
  for (LayerLoads& layer : loads.of_layer) {  // without single tokens: from pairs alone
    layer.coactivation_EE = coactivation(layer, 4);
    layer.sample_TK.clear();
  }
  EXPECT_LT(score(solve(loads, r), sampled, r.topology, {}, 0).inter_node_rows_per_token, 0.6 * rows(linear) + 2);
  for (LayerLoads& layer : loads.of_layer) layer.coactivation_EE.clear();
  EXPECT_THROW(solve(loads, r), Error);
}

TEST(SolveTraffic, KeepsTheBalanceLimit) {
  const Loads loads = topical_loads(3, 32, 4, 4, 1000);
  SolveRequest r = request_for("node:4 rank:2");
  const Placement even = solve(loads, r);
  r.objective = Objective::kTraffic;
  for (const double limit : {1.0, 1.05, 1.3}) {
    r.balance_limit = limit;
    const Placement plan = solve(loads, r);
    for (std::size_t l = 0; l < 3; ++l)
      EXPECT_LE(balance(plan.placed[l], loads.of_layer[l], r.topology),
                std::max(limit, balance(even.placed[l], loads.of_layer[l], r.topology)) * (1 + 1e-9));
  }
}

// Time: never longer than what balance or traffic alone bring.
TEST(SolveTime, IsNoLongerThanTheOthers) {
  const Loads loads = topical_loads(2, 32, 4, 4, 800);
  SolveRequest r = request_for("node:4 rank:2");
  r.tokens_per_step = 4096;
  for (const double seconds_per_row : {1e-9, 1e-6, 1e-4}) {
    r.cost = {seconds_per_row, 4096, 1e9};
    const auto seconds = [&](Objective objective) {
      r.objective = objective;
      return score(solve(loads, r), loads, r.topology, r.cost, r.tokens_per_step).seconds;
    };
    const double time = seconds(Objective::kTime);
    EXPECT_LE(time, seconds(Objective::kBalance) * (1 + 1e-9));
    EXPECT_LE(time, seconds(Objective::kTraffic) * (1 + 1e-9));
  }
}

TEST(Solve, EndsInTime) {
  const Loads loads = zipf_loads(4, 64, 1.0);
  SolveRequest r = request_for("rank:8", 72);
  r.seconds = 0.05;
  expect_whole(solve(loads, r), 72);
}

}  // namespace
}  // namespace moe
