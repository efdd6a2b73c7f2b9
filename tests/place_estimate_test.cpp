// The estimate of rows that cross nodes from pairs of experts: exact where pairs say all, within the Bonferroni bounds, and
// near the count on correlated tokens. Not here: the count itself (place_score_test.cpp).
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/base/error.h"
#include "lib/base/rng.h"
#include "lib/place/score_parts.h"

namespace moe {
namespace {

// Tokens whose experts go together: each token mixes `num_topics` topics, an expert likes some topics and is more or less
// popular; the top_k largest of popularity + taste + noise are chosen.
struct Mix {
  int num_experts, top_k, num_topics;
  double popularity, taste;  // spread of the logits, beside Gumbel noise of spread 1.28
};

LayerLoads tokens_of(const Mix& mix, int num_tokens, const std::string& name) {
  const Rng normal(1, name + " logits"), noise(2, name + " noise");
  const auto E = static_cast<std::size_t>(mix.num_experts), K = static_cast<std::size_t>(mix.top_k);
  LayerLoads loads;
  loads.load_E.assign(E, 0);
  loads.coactivation_EE.assign(E * E, 0);
  loads.num_tokens = num_tokens;
  std::vector<double> logit_E(E);
  for (std::size_t t = 0; t < static_cast<std::size_t>(num_tokens); ++t) {
    const std::size_t topic = noise.bits(t * (E + 1) + E) % static_cast<std::size_t>(mix.num_topics);
    for (std::size_t e = 0; e < E; ++e)
      logit_E[e] = mix.popularity * normal.normal(e) + mix.taste * normal.normal((topic + 1) * E + e) -
                   std::log(-std::log(noise.uniform(t * (E + 1) + e) + 1e-12));
    std::vector<std::int32_t> order(E);
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + mix.top_k, order.end(), [&](int a, int b) {
      return logit_E[static_cast<std::size_t>(a)] > logit_E[static_cast<std::size_t>(b)];
    });
    order.resize(K);
    loads.sample_TK.insert(loads.sample_TK.end(), order.begin(), order.end());
    for (const std::int32_t a : order) {
      ++loads.load_E[static_cast<std::size_t>(a)];
      for (const std::int32_t b : order)
        ++loads.coactivation_EE[static_cast<std::size_t>(a) * E + static_cast<std::size_t>(b)];
    }
  }
  return loads;
}

// Experts that go together on one node, as a plan for traffic would have them: greedy, the most chosen with its friends.
LayerPlacement friends_together(const LayerLoads& loads, int num_ranks) {
  const std::size_t E = loads.load_E.size(), room = E / static_cast<std::size_t>(num_ranks);
  LayerPlacement p;
  std::vector<bool> used(E);
  for (int r = 0; r < num_ranks; ++r) {
    std::vector<int> mine;
    while (mine.size() < room) {
      int best = -1;
      double best_gain = -1;
      for (std::size_t e = 0; e < E; ++e) {
        double gain = mine.empty() ? loads.load_E[e] : 0;
        for (const int m : mine) gain += loads.coactivation_EE[e * E + static_cast<std::size_t>(m)] / (loads.load_E[e] + 1);
        if (!used[e] && gain > best_gain) best = static_cast<int>(e), best_gain = gain;
      }
      mine.push_back(best), used[static_cast<std::size_t>(best)] = true;
    }
    p.rank2experts.push_back(mine);
  }
  return p;
}

struct Rows {
  double counted, estimated;
};
Rows rows_of(const LayerPlacement& placed, LayerLoads loads, int top_k, const Topology& t, ReplicaChoice choice) {
  const double counted = inter_node_rows_per_token(placed, loads, top_k, t, choice);
  loads.sample_TK.clear();
  return {counted, inter_node_rows_per_token(placed, loads, top_k, t, choice)};
}

TEST(PlaceEstimateTest, NearTheCountOnCorrelatedTokens) {
  const std::vector<Mix> mixes = {{32, 2, 4, 0.5, 1.5}, {64, 4, 8, 1, 2}, {64, 8, 8, 1, 1},  {64, 6, 3, 0.5, 3},
                                  {128, 8, 16, 1, 2},   {64, 8, 1, 2, 0}, {64, 8, 64, 0, 3}, {16, 1, 4, 1, 1}};
  double sum = 0, count = 0;
  for (const Mix& mix : mixes) {
    const LayerLoads loads = tokens_of(mix, 4000, "mix " + std::to_string(&mix - mixes.data()));
    for (const int num_nodes : {2, 4, 8})
      for (const bool friends : {false, true}) {
        const Topology t = parse_topology("rank:1 node:" + std::to_string(num_nodes));
        const LayerPlacement p = friends ? friends_together(loads, num_nodes) : linear_layer(mix.num_experts, num_nodes);
        LayerPlacement copied = p;  // the first expert of each rank also on the next
        for (int r = 0; r < num_nodes; ++r)
          copied.rank2experts[static_cast<std::size_t>((r + 1) % num_nodes)].push_back(
              p.rank2experts[static_cast<std::size_t>(r)][0]);
        for (const ReplicaChoice choice : {ReplicaChoice::kSpread, ReplicaChoice::kNearest})
          for (const auto* placed : std::initializer_list<const LayerPlacement*>{&p, &copied}) {
            const Rows rows = rows_of(*placed, loads, mix.top_k, t, choice);
            const double error = std::abs(rows.estimated / rows.counted - 1);
            // three topics of nearly disjoint experts, brought together: three points that two moments cannot tell
            EXPECT_LT(error, mix.num_topics == 3 && friends ? 0.07 : 0.03)
                << "mix " << &mix - mixes.data() << ", " << num_nodes << " nodes, friends " << friends << ", counted "
                << rows.counted << ", estimated " << rows.estimated;
            sum += error, ++count;
          }
      }
  }
  EXPECT_LT(sum / count, 0.01);
}

// Two choices a token: pairs say all, 1 - P(0) = mean - pairs / 2. So does one choice, and a node that has every expert.
TEST(PlaceEstimateTest, ExactWherePairsSayAll) {
  for (const Mix& mix : {Mix{12, 2, 3, 1, 2}, Mix{12, 1, 3, 1, 2}}) {
    const LayerLoads loads = tokens_of(mix, 500, "few");
    const Rows rows = rows_of(linear_layer(12, 5), loads, mix.top_k, parse_topology("rank:2,1,2"), ReplicaChoice::kSpread);
    EXPECT_NEAR(rows.estimated, rows.counted, 1e-8);
  }
  const LayerLoads loads = tokens_of({8, 4, 2, 1, 1}, 200, "all");
  LayerPlacement one;
  one.rank2experts = {{0, 1, 2, 3, 4, 5, 6, 7}, {}};
  EXPECT_NEAR(rows_of(one, loads, 4, parse_topology("node:2 rank:1"), ReplicaChoice::kSpread).estimated, 0.5, 1e-6);
}

// Distributions that the moments fix: X is 0 or K, X is one number, X is nothing.
TEST(PlaceEstimateTest, ExtremeMoments) {
  const std::vector<double> flat(5, 0.0);  // X in 0..4
  EXPECT_EQ(touch_probability(0, 0, flat), 0);
  EXPECT_NEAR(touch_probability(0.25 * 4, 0.25 * 12, flat), 0.25, 1e-6) << "all four or none";
  EXPECT_NEAR(touch_probability(2, 2, flat), 1, 1e-6) << "always two";
  EXPECT_NEAR(touch_probability(4, 12, flat), 1, 1e-6) << "always all";
  EXPECT_NEAR(touch_probability(0.3, 0, flat), 0.3, 1e-6) << "never two";
  EXPECT_NEAR(touch_probability(1.5, 1, flat), 1, 1e-6) << "one or two";
  EXPECT_NEAR(touch_probability(1e-9, 0, flat), 1e-9, 1e-12);
}

TEST(PlaceEstimateTest, StaysWithinTheBonferroniBounds) {
  const Rng rng(3, "distributions");
  for (std::uint64_t trial = 0; trial < 500; ++trial) {
    std::vector<double> p(2 + trial % 8);
    double sum = 0, mean = 0, pairs = 0;
    for (std::size_t x = 0; x < p.size(); ++x) sum += p[x] = std::pow(rng.uniform(trial * 16 + x), 6);
    for (std::size_t x = 0; x < p.size(); ++x) {
      const double n = static_cast<double>(x);
      mean += p[x] / sum * n, pairs += p[x] / sum * n * (n - 1);
    }
    const double got = touch_probability(mean, pairs, std::vector<double>(p.size(), 0.0));
    EXPECT_GE(got, mean - pairs / 2 - 1e-12) << trial;
    EXPECT_LE(got, std::min(1.0, mean - pairs / static_cast<double>(p.size() - 1)) + 1e-12) << trial;
    if (p.size() <= 3) {
      EXPECT_NEAR(got, 1 - p[0] / sum, 1e-6) << trial;
    }
  }
}

TEST(PlaceEstimateTest, WhatIsRefused) {
  LayerLoads loads;
  loads.load_E = {1, 1};
  loads.coactivation_EE = {1, 0, std::nan(""), 1};
  const Topology t = parse_topology("node:2 rank:1");
  EXPECT_THROW(inter_node_rows_per_token(linear_layer(2, 2), loads, 1, t), Error);
  loads.coactivation_EE = {1, 0, 1};
  EXPECT_THROW(inter_node_rows_per_token(linear_layer(2, 2), loads, 1, t), Error);
}

}  // namespace
}  // namespace moe
