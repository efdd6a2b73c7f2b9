// Scores of placements against plain counting over tiny cases: every token, every source rank, every choice of copies;
// bounds against every placement there is. Not here: the estimate of traffic from pairs (place_estimate_test.cpp).
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <set>

#include "lib/base/error.h"
#include "lib/base/rng.h"
#include "lib/place/score.h"

namespace moe {
namespace {

using ::testing::ElementsAre;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr ReplicaChoice kChoices[] = {ReplicaChoice::kSpread, ReplicaChoice::kNearest};

LayerPlacement placed(std::vector<std::vector<int>> rank2experts) { return {std::move(rank2experts)}; }

// The ranks that a row of expert e from rank `source` may go to, each with the same probability.
std::vector<int> naive_targets(const LayerPlacement& p, const Topology& t, int e, int source, ReplicaChoice choice) {
  std::vector<int> all, node, own;
  for (int r = 0; r < p.num_ranks(); ++r)
    for (const int held : p.rank2experts[r]) {
      if (held != e) continue;
      all.push_back(r);
      if (t.rank2node[r] == t.rank2node[source]) node.push_back(r);
      if (r == source) own.push_back(r);
    }
  if (choice == ReplicaChoice::kSpread) return all;
  return !own.empty() ? own : !node.empty() ? node : all;
}

// Distinct nodes other than the own, averaged over sources, tokens and all combinations of copies.
double naive_rows(const LayerPlacement& p, const Topology& t, const std::vector<std::int32_t>& sample, int top_k,
                  ReplicaChoice choice) {
  double sum = 0;
  for (int source = 0; source < t.num_ranks(); ++source)
    for (std::size_t begin = 0; begin < sample.size(); begin += top_k) {
      std::vector<std::vector<int>> targets;
      for (int k = 0; k < top_k; ++k)
        if (sample[begin + k] >= 0) targets.push_back(naive_targets(p, t, sample[begin + k], source, choice));
      std::size_t combinations = 1;
      for (const auto& list : targets) combinations *= list.size();
      double rows = 0;
      for (std::size_t c = 0; c < combinations; ++c) {
        std::set<int> nodes;
        std::size_t rest = c;
        for (const auto& list : targets) {
          nodes.insert(t.rank2node[list[rest % list.size()]]);
          rest /= list.size();
        }
        nodes.erase(t.rank2node[source]);
        rows += static_cast<double>(nodes.size());
      }
      sum += rows / static_cast<double>(combinations);
    }
  return sum / static_cast<double>(t.num_ranks() * (sample.size() / top_k));
}

std::vector<double> naive_loads(const LayerPlacement& p, const Topology& t, const std::vector<double>& load_E,
                                ReplicaChoice choice) {
  std::vector<double> load_R(p.num_ranks());
  for (int source = 0; source < t.num_ranks(); ++source)
    for (std::size_t e = 0; e < load_E.size(); ++e) {
      const std::vector<int> targets = naive_targets(p, t, static_cast<int>(e), source, choice);
      for (const int r : targets) load_R[r] += load_E[e] / t.num_ranks() / static_cast<double>(targets.size());
    }
  return load_R;
}

struct Case {
  std::string topology;
  LayerPlacement placed;
};
// 5 experts: uneven nodes, copies within and across nodes, ranks without experts, one node, a rank per node.
std::vector<Case> cases() {
  return {
      {"node:2 rank:2", placed({{0, 1}, {2}, {3}, {4}})},
      {"rank:1,3", placed({{4, 3, 2}, {}, {1, 0}, {}})},
      {"rank:2,1,1", placed({{0, 1}, {0, 2}, {0, 3}, {4, 1}})},
      {"node:3 rank:1", placed({{0, 1, 2}, {0, 3}, {0, 1, 4}})},
      {"rank:3", placed({{0, 1}, {0, 2}, {3, 4}})},
      {"node:2 rank:2", placed({{0, 0, 1}, {2}, {0, 3}, {4}})},  // EPLB puts two copies on one rank
      {"node:1 rank:1", placed({{0, 1, 2, 3, 4}})},
  };
}

// All choices of 3 of 5 experts, some often, one with a dropped slot.
std::vector<std::int32_t> all_tokens() {
  std::vector<std::int32_t> sample;
  for (int a = 0; a < 5; ++a)
    for (int b = a + 1; b < 5; ++b)
      for (int c = b + 1; c < 5; ++c)
        for (int times = 0; times <= a * b % 3; ++times) sample.insert(sample.end(), {c, a, b});
  sample.insert(sample.end(), {3, -1, 0});
  return sample;
}

TEST(PlaceScoreTest, RankLoadsAndRowsEqualPlainCounting) {
  LayerLoads loads;
  loads.load_E = {7, 0, 3.5, 11, 1};
  loads.sample_TK = all_tokens();
  for (const Case& c : cases())
    for (const ReplicaChoice choice : kChoices) {
      SCOPED_TRACE(c.topology + " " + std::to_string(&c - &cases()[0]));
      const Topology t = parse_topology(c.topology);
      const std::vector<double> got = rank_loads(c.placed, loads, t, choice);
      const std::vector<double> want = naive_loads(c.placed, t, loads.load_E, choice);
      ASSERT_EQ(got.size(), want.size());
      for (std::size_t r = 0; r < got.size(); ++r) EXPECT_NEAR(got[r], want[r], 1e-12) << r;
      EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), 22.5, 1e-12) << "no row is lost";

      const NodeRows rows = node_rows_per_token(c.placed, loads, 3, t, choice);
      EXPECT_NEAR(rows.total, naive_rows(c.placed, t, loads.sample_TK, 3, choice), 1e-12);
      EXPECT_EQ(inter_node_rows_per_token(c.placed, loads, 3, t, choice), rows.total);
      ASSERT_EQ(rows.in_N.size(), static_cast<std::size_t>(t.num_nodes()));
      EXPECT_NEAR(std::accumulate(rows.in_N.begin(), rows.in_N.end(), 0.0), rows.total, 1e-12);
      EXPECT_NEAR(std::accumulate(rows.out_N.begin(), rows.out_N.end(), 0.0), rows.total, 1e-12);
    }
}

TEST(PlaceScoreTest, RowsIntoAndOutOfUnevenNodes) {
  LayerLoads loads;
  loads.load_E = {1, 1};
  loads.sample_TK = {0};  // one token, expert 0 on node 0, which has 1 of 4 ranks
  const NodeRows rows = node_rows_per_token(placed({{0}, {1}, {}, {}}), loads, 1, parse_topology("rank:1,3"));
  EXPECT_THAT(rows.in_N, ElementsAre(0.75, 0));
  EXPECT_THAT(rows.out_N, ElementsAre(0, 0.75));
}

TEST(PlaceScoreTest, MaxOverMean) {
  EXPECT_EQ(max_over_mean({2, 2, 2}), 1);
  EXPECT_EQ(max_over_mean({0, 6, 0}), 3);
  EXPECT_EQ(max_over_mean({0, 0}), 1);
  EXPECT_EQ(max_over_mean({}), 1);
  EXPECT_THROW(max_over_mean({1, kNaN}), Error);
}

TEST(PlaceScoreTest, StepsAreJudgedOneByOne) {
  LayerLoads loads;
  loads.load_E = {4, 4};  // even in the mean, never in a step
  loads.step_load_SE = {4, 0, 0, 4};
  const Topology t = parse_topology("rank:2");
  EXPECT_EQ(max_over_mean(rank_loads(placed({{0}, {1}}), loads, t)), 1);
  EXPECT_EQ(step_max_over_mean(placed({{0}, {1}}), loads, t), 2);
  EXPECT_EQ(step_max_over_mean(placed({{0, 1}, {0, 1}}), loads, t), 1);
  loads.step_load_SE.clear();
  EXPECT_TRUE(std::isnan(step_max_over_mean(placed({{0}, {1}}), loads, t)));
}

// Tokens of two steps, all to one node and then all to the other: the mean is even, no step is.
TEST(PlaceScoreTest, TheFullestLinkIsThatOfEachStep) {
  LayerLoads loads;
  loads.load_E = {3, 3};
  loads.sample_TK = {0, 0, 0, 1, 1, 1};
  const Topology t = parse_topology("node:2 rank:1");
  const auto fullest = [&] { return busiest_link_rows(placed({{0}, {1}}), loads, 1, t); };
  EXPECT_DOUBLE_EQ(fullest(), 0.25);  // half of the tokens come from the other node, half of these of either step
  loads.psum_sample_S1 = {0, 3, 6};
  EXPECT_DOUBLE_EQ(fullest(), 0.5);
  loads.psum_sample_S1 = {0, 0, 2, 6};  // a step without tokens; 0 0 and 0 1 1 1
  EXPECT_DOUBLE_EQ(fullest(), (2 * 0.5 + 4 * 0.375) / 6);
  loads.sample_TK.clear(), loads.psum_sample_S1.clear();
  EXPECT_TRUE(std::isnan(fullest()));
}

TEST(PlaceScoreTest, WhatIsRefused) {
  const Topology t = parse_topology("rank:2");
  LayerLoads loads;
  for (const double bad : {kNaN, -1.0, std::numeric_limits<double>::infinity()}) {
    loads.load_E = {1, bad};
    EXPECT_THROW(rank_loads(placed({{0}, {1}}), loads, t), Error) << bad;
    EXPECT_THROW(lower_bound(loads.load_E, 2, 2), Error) << bad;
  }
  loads.load_E = {1, 2};
  EXPECT_THROW(rank_loads(placed({{0}, {0}}), loads, t), Error) << "expert 1 is nowhere";
  EXPECT_THROW(rank_loads(placed({{0}, {1, 2}}), loads, t), Error) << "no expert 2";
  EXPECT_THROW(rank_loads(placed({{0}, {1}, {}}), loads, t), Error) << "three ranks";
  loads.sample_TK = {0, 1, 0};
  EXPECT_THROW(node_rows_per_token(placed({{0}, {1}}), loads, 2, parse_topology("node:2 rank:1")), Error);
  loads.sample_TK = {0, 2};
  EXPECT_THROW(node_rows_per_token(placed({{0}, {1}}), loads, 2, parse_topology("node:2 rank:1")), Error);
  loads.sample_TK.clear();
  EXPECT_TRUE(std::isnan(inter_node_rows_per_token(placed({{0}, {1}}), loads, 2, parse_topology("node:2 rank:1"))));
  EXPECT_EQ(inter_node_rows_per_token(placed({{0}, {1}}), loads, 2, t), 0) << "one node: nothing crosses";
}

// The smallest max over mean of all ways to give each slot to a rank, with all numbers of copies.
double best_of_all(const std::vector<double>& load_E, int num_slots, int num_ranks, int least_slots) {
  const int num_experts = static_cast<int>(load_E.size());
  double best = INFINITY, sum = std::accumulate(load_E.begin(), load_E.end(), 0.0);
  std::vector<int> copies(load_E.size(), 1), rank(num_slots);
  const auto try_all_ranks = [&] {
    std::vector<double> slot_load;
    for (int e = 0; e < num_experts; ++e) slot_load.insert(slot_load.end(), copies[e], load_E[e] / copies[e]);
    std::fill(rank.begin(), rank.end(), 0);
    for (int s = 0; s < num_slots;) {
      std::vector<double> load_R(num_ranks);
      std::vector<int> count_R(num_ranks);
      for (int i = 0; i < num_slots; ++i) load_R[rank[i]] += slot_load[i], ++count_R[rank[i]];
      if (*std::min_element(count_R.begin(), count_R.end()) >= least_slots)
        best = std::min(best, *std::max_element(load_R.begin(), load_R.end()) * num_ranks / sum);
      for (s = 0; s < num_slots && ++rank[s] == num_ranks; ++s) rank[s] = 0;
    }
  };
  const std::function<void(int, int)> choose = [&](int e, int left) {
    if (e == num_experts - 1) {
      copies[e] = 1 + left;
      try_all_ranks();
      return;
    }
    for (int more = 0; more <= left; ++more) copies[e] = 1 + more, choose(e + 1, left - more);
  };
  choose(0, num_slots - num_experts);
  return best;
}

TEST(PlaceScoreTest, NoPlacementBeatsTheBound) {
  const Rng rng(7, "loads");
  int tight = 0, all = 0;
  for (std::uint64_t trial = 0; trial < 60; ++trial) {
    const int num_experts = 2 + static_cast<int>(trial % 4), num_ranks = 2 + static_cast<int>(trial / 4 % 2);
    std::vector<double> load_E(num_experts);
    for (int e = 0; e < num_experts; ++e)
      load_E[e] = std::exp2(4 * rng.uniform(trial * 8 + static_cast<std::uint64_t>(e))) - 1;
    for (int more = 0; more <= 2; ++more)
      for (const int least : {0, (num_experts + more) / num_ranks}) {
        const double best = best_of_all(load_E, num_experts + more, num_ranks, least);
        const double bound = lower_bound(load_E, num_experts + more, num_ranks, least);
        EXPECT_LE(bound, best * (1 + 1e-12)) << "trial " << trial << ", copies " << more << ", least " << least;
        tight += bound > best * (1 - 1e-9);
        ++all;
      }
  }
  EXPECT_GT(tight, all / 3) << "a bound that is rarely reached says little";
}

TEST(PlaceScoreTest, BoundsByHand) {
  EXPECT_EQ(lower_bound({1, 1, 1, 1}, 4, 2), 1);
  EXPECT_EQ(lower_bound({0, 0}, 2, 2), 1);
  EXPECT_EQ(lower_bound({6, 1, 1}, 3, 2), 1.5) << "the heaviest expert";
  EXPECT_EQ(lower_bound({6, 1, 1}, 4, 2), 1) << "which two ranks may share";
  EXPECT_EQ(lower_bound({2, 2, 2}, 3, 2), 4.0 / 3) << "two of three share a rank";
  EXPECT_EQ(lower_bound({3, 3, 3, 3, 3, 0}, 6, 2), 9 / 7.5) << "three of five do";
  EXPECT_EQ(lower_bound({6, 1, 1, 1, 1, 2}, 6, 2, 3), 8.0 / 6) << "the heaviest has two companions";
  EXPECT_EQ(lower_bound({90, 5, 5}, 9, 3), 1) << "copies on all ranks";
  EXPECT_EQ(lower_bound({90, 5, 5}, 4, 3), 1.35) << "on two of three";
}

TEST(PlaceScoreTest, TimeOfAStep) {
  Loads loads{4, 2, {3, 5}, {}};
  LayerLoads layer;
  layer.load_E = {4, 4, 2, 2};
  layer.num_tokens = 6;
  layer.sample_TK = {0, 1, 0, 2};  // two tokens: nodes {0}, {0, 1}
  loads.of_layer = {layer, layer};
  const Placement linear = linear_placement(loads.layers, 4, 2);
  const CostModel cost{1e-3, 100, 1000};
  const PlanScore s = score(linear, loads, parse_topology("node:2 rank:1"), cost, 60);
  ASSERT_EQ(s.of_layer.size(), 2u);
  EXPECT_DOUBLE_EQ(s.of_layer[0].max_over_mean, 4.0 / 3);
  // into node 0: half of the tokens (those of node 1), all of which touch it; into node 1: half of those of node 0
  EXPECT_THAT(s.of_layer[0].node_rows_in_N, ElementsAre(0.5, 0.25));
  EXPECT_THAT(s.of_layer[0].node_rows_out_N, ElementsAre(0.25, 0.5));
  // 120 rows, 60 a rank, 80 on the slowest: 0.08 s; 60 x 0.5 rows x 100 bytes at 1000 a second: 3 s
  EXPECT_NEAR(s.of_layer[0].seconds, 3.08, 1e-12);
  EXPECT_NEAR(s.seconds, 6.16, 1e-12);
  EXPECT_DOUBLE_EQ(s.inter_node_rows_per_token, 0.75);
  loads.of_layer[1].sample_TK.clear();
  EXPECT_TRUE(std::isnan(score(linear, loads, parse_topology("node:2 rank:1"), cost, 60).seconds));
  EXPECT_FALSE(std::isnan(score(linear, loads, parse_topology("node:2 rank:1"), {1e-3, 0, 0}, 60).seconds));
  loads.layers = {3, 4};
  EXPECT_THROW(score(linear, loads, parse_topology("node:2 rank:1"), cost, 60), Error);
}

TEST(PlaceScoreTest, Moves) {
  const Topology t = parse_topology("node:2 rank:2");
  const Placement before{4, {7}, {placed({{0, 1}, {1}, {2}, {3, 0}})}};
  const Placement after{4, {7}, {placed({{1, 0}, {0, 3}, {2, 1, 0}, {3}})}};
  std::vector<std::vector<int>> got;
  for (const Move& m : moves(before, after, t)) got.push_back({m.layer, m.expert, m.from_rank, m.to_rank});
  // rank 1 takes 0 from its own node and 3 from the other; rank 2 takes 0 from rank 3, its neighbour, and 1 from rank 0
  EXPECT_THAT(
      got, ElementsAre(ElementsAre(7, 0, 0, 1), ElementsAre(7, 3, 3, 1), ElementsAre(7, 0, 3, 2), ElementsAre(7, 1, 0, 2)));
  EXPECT_TRUE(moves(before, before, t).empty()) << "an order of slots is no move";
  const Placement other{4, {8}, before.placed};
  EXPECT_THROW(moves(before, other, t), Error);
}

}  // namespace
}  // namespace moe
