// Routers: the choice by its definition (bias, groups, ties), gates and their gradients. Node limits among the cases here,
// and what is special about them in router_nodes_test.cpp. Losses: router_losses_test.cpp.
#include <algorithm>
#include <limits>
#include <set>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Case {
  RouterShape shape;
  bool biased;
};
// Experts in blocks on 8 nodes; spread over 5 nodes of very different size.
const std::int32_t* blocks_of_8() {
  static const std::vector<std::int32_t> map = [] {
    std::vector<std::int32_t> m(256);
    for (int e = 0; e < 256; ++e) m[e] = e / 32;
    return m;
  }();
  return map.data();
}
const std::int32_t* uneven_5() {
  static const std::vector<std::int32_t> map = [] {
    auto m = random_ints(37, 5, 0, 5);
    for (int e = 10; e < 30; ++e) m[e] = 3;
    return m;
  }();
  return map.data();
}
std::vector<Case> cases() {
  const auto S = Score::kSoftmax;
  const auto G = Score::kSigmoid;
  return {{{1, 1, S}, false},
          {{8, 2, S}, false},
          {{7, 7, G, true}, true},
          {{64, 8, S, true}, false},
          {{37, 5, G, true, 2.5f}, true},
          {{160, 6, S, false, 16.0f, 8, 3, GroupScore::kMax}, false},
          {{256, 8, G, true, 2.5f, 8, 4, GroupScore::kTop2Sum}, true},
          {{12, 3, G, true, 1.0f, 12, 5, GroupScore::kTop2Sum}, true},  // groups of one expert
          {{21, 6, G, false, 1.0f, 3, 2, GroupScore::kTop2Sum}, true},
          {{256, 8, G, true, 2.5f, 1, 1, GroupScore::kTop2Sum, blocks_of_8(), 8, 4}, true},
          {{256, 8, G, true, 2.5f, 8, 4, GroupScore::kTop2Sum, blocks_of_8(), 8, 3}, true},
          {{256, 7, S, false, 1.0f, 4, 2, GroupScore::kMax, blocks_of_8(), 8, 1}, false},
          {{37, 5, S, true, 1.0f, 1, 1, GroupScore::kTop2Sum, uneven_5(), 5, 3}, true},
          {{37, 1, G, false, 1.0f, 1, 1, GroupScore::kTop2Sum, uneven_5(), 5, 2}, true},
          {{32, 32, S, true}, false},
          {{33, 1, G}, true},
          {{97, 41, G, true, 2.5f}, true},  // more choices than a warp has lanes
          {{520, 8, S, true, 1.0f, 65, 33, GroupScore::kTop2Sum}, true}};
}

template <class R>
std::vector<R> scores_of(const RouterShape& s, const R* logits) {
  std::vector<R> out(s.num_experts);
  R sum = 0;
  const R largest = *std::max_element(logits, logits + s.num_experts);
  for (int e = 0; e < s.num_experts; ++e) {
    out[e] = s.score == Score::kSoftmax ? std::exp(logits[e] - largest) : R(1) / (R(1) + std::exp(-logits[e]));
    sum += out[e];
  }
  if (s.score == Score::kSoftmax)
    for (R& v : out) v /= sum;
  return out;
}

// The n largest of the keys, the lowest index first among equals: a stable sort.
template <class R>
std::vector<int> largest(const std::vector<R>& key, int n) {
  std::vector<int> order(key.size());
  for (std::size_t i = 0; i < key.size(); ++i) order[i] = static_cast<int>(i);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return key[a] > key[b]; });
  order.resize(n);
  return order;
}

// Keys of the experts outside the best nodes become -infinity.
void keep_nodes(const RouterShape& s, std::vector<float>& key) {
  const float out = -std::numeric_limits<float>::infinity();
  std::vector<float> node_key(s.num_nodes, out);
  for (int n = 0; n < s.num_nodes; ++n) {
    std::vector<float> members;
    for (int e = 0; e < s.num_experts; ++e)
      if (s.expert2node[e] == n && key[e] != out) members.push_back(key[e]);
    std::sort(members.rbegin(), members.rend());
    for (std::size_t i = 0; i < members.size() && static_cast<int>(i) * s.num_nodes_kept < s.top_k; ++i)
      node_key[n] = i == 0 ? members[0] : node_key[n] + members[i];
  }
  const auto kept = largest(node_key, s.num_nodes_kept);
  for (int e = 0; e < s.num_experts; ++e)
    if (std::find(kept.begin(), kept.end(), s.expert2node[e]) == kept.end()) key[e] = out;
}

// From the scores that the kernel itself gave, so that equality can be asked for.
std::vector<int> choose(const RouterShape& s, const float* scores, const float* bias) {
  std::vector<float> key(scores, scores + s.num_experts);
  for (int e = 0; e < s.num_experts && bias; ++e) key[e] += bias[e];
  const int width = s.num_experts / s.num_groups;
  std::vector<float> group_key;
  for (int g = 0; g < s.num_groups; ++g) {
    std::vector<float> members(key.begin() + g * width, key.begin() + (g + 1) * width);
    std::sort(members.rbegin(), members.rend());
    group_key.push_back(s.group_score == GroupScore::kMax || width == 1 ? members[0] : members[0] + members[1]);
  }
  const auto kept = largest(group_key, s.num_groups_kept);
  for (int e = 0; e < s.num_experts; ++e)
    if (std::find(kept.begin(), kept.end(), e / width) == kept.end()) key[e] = -std::numeric_limits<float>::infinity();
  if (s.expert2node) keep_nodes(s, key);
  return largest(key, s.top_k);
}

template <class R>
std::vector<R> gates_of(const RouterShape& s, const std::vector<R>& scores, const std::int32_t* idx) {
  R sum = R(1e-20);
  std::vector<R> gate;
  for (int k = 0; k < s.top_k; ++k) sum += scores[idx[k]];
  for (int k = 0; k < s.top_k; ++k) gate.push_back(R(s.scale) * scores[idx[k]] / (s.renormalize ? sum : R(1)));
  return gate;
}

struct Routed {
  std::vector<float> scores, gate;
  std::vector<std::int32_t> idx;
};
Routed route(const Kernels& k, Stream& stream, const RouterShape& s, const std::vector<float>& logits, const float* bias) {
  const auto T = static_cast<std::int64_t>(logits.size()) / s.num_experts;
  Routed r{std::vector<float>(logits.size()), std::vector<float>(T * s.top_k), std::vector<std::int32_t>(T * s.top_k, -5)};
  k.router.forward(stream, s, logits.data(), T, bias, r.scores.data(), r.idx.data(), r.gate.data());
  return r;
}

constexpr std::int64_t kTokens = 61;

TEST(Router, AgreesWithTheDefinition) {
  for (const Kernels* k : all_isas())
    for (const Case& c : cases()) {
      const RouterShape& s = c.shape;
      SCOPED_TRACE(std::string(k->isa) + " E " + std::to_string(s.num_experts));
      const auto logits = random_floats(kTokens * s.num_experts, 1, -4, 4),
                 bias = random_floats(s.num_experts, 2, -0.3f, 0.3f);
      Stream stream(kernel_device(), 2);
      const Routed r = route(*k, stream, s, logits, c.biased ? bias.data() : nullptr);
      std::vector<float> naive_scores, naive_gate;
      std::vector<double> true_scores, true_gate;
      const auto wide = doubles(logits);
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const auto n = scores_of<float>(s, &logits[t * s.num_experts]);
        const auto d = scores_of<double>(s, &wide[t * s.num_experts]);
        const auto want = choose(s, &r.scores[t * s.num_experts], c.biased ? bias.data() : nullptr);
        const std::int32_t* idx = &r.idx[t * s.top_k];
        ASSERT_EQ(std::vector<int>(idx, idx + s.top_k), want) << "token " << t;
        const auto ng = gates_of<float>(s, n, idx);
        const auto dg = gates_of<double>(s, d, idx);
        naive_scores.insert(naive_scores.end(), n.begin(), n.end()),
            true_scores.insert(true_scores.end(), d.begin(), d.end());
        naive_gate.insert(naive_gate.end(), ng.begin(), ng.end()), true_gate.insert(true_gate.end(), dg.begin(), dg.end());
        std::set<int> groups, nodes;
        for (const int e : want) groups.insert(e / (s.num_experts / s.num_groups));
        for (const int e : want) nodes.insert(s.expert2node ? s.expert2node[e] : 0);
        EXPECT_LE(static_cast<int>(groups.size()), s.num_groups_kept);
        EXPECT_LE(static_cast<int>(nodes.size()), s.num_nodes_kept);
      }
      EXPECT_TRUE(as_good_as_naive(r.scores, naive_scores, true_scores));
      EXPECT_TRUE(as_good_as_naive(r.gate, naive_gate, true_gate));
    }
}

// More than fit the shared memory of a GPU.
TEST(Router, VeryManyExperts) {
  constexpr int kE = 20480, kT = 5;
  const auto nodes = random_ints(kE, 3, 0, 6);
  const auto logits = random_floats(kT * kE, 1, -4, 4), bias = random_floats(kE, 2, -0.3f, 0.3f);
  const RouterShape shapes[] = {{kE, 3, Score::kSigmoid},
                                {kE, 3, Score::kSoftmax, true, 1.0f, 40, 3, GroupScore::kMax},
                                {kE, 5, Score::kSigmoid, true, 2.5f, 4, 2, GroupScore::kTop2Sum, nodes.data(), 6, 2}};
  for (const Kernels* k : all_isas())
    for (const RouterShape& s : shapes) {
      Stream stream(kernel_device(), 2);
      const Routed r = route(*k, stream, s, logits, bias.data());
      std::vector<std::int64_t> counts(kE), want_counts(kE);
      k->router.count_top_k(stream, s, r.scores.data(), 1, kT, counts.data());
      for (int t = 0; t < kT; ++t) {
        const float* scores = &r.scores[t * kE];
        const std::int32_t* idx = &r.idx[t * s.top_k];
        EXPECT_EQ(std::vector<int>(idx, idx + s.top_k), choose(s, scores, bias.data())) << "token " << t;
        for (const int e : choose({kE, s.top_k}, scores, nullptr)) ++want_counts[e];
      }
      EXPECT_EQ(counts, want_counts);
    }
}

TEST(Router, TiesGoToTheLowestIndex) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    const RouterShape flat{40, 4, Score::kSoftmax};
    std::vector<float> logits(40, 0.5f);
    EXPECT_EQ(route(*k, stream, flat, logits, nullptr).idx, (std::vector<std::int32_t>{0, 1, 2, 3}));
    logits[33] = logits[17] = logits[16] = 1.0f;
    EXPECT_EQ(route(*k, stream, flat, logits, nullptr).idx, (std::vector<std::int32_t>{16, 17, 33, 0}));
    for (const GroupScore rule : {GroupScore::kMax, GroupScore::kTop2Sum}) {
      const RouterShape grouped{40, 4, Score::kSigmoid, false, 1, 10, 2, rule};
      const std::vector<float> equal(40, 0.0f);
      EXPECT_EQ(route(*k, stream, grouped, equal, nullptr).idx, (std::vector<std::int32_t>{0, 1, 2, 3}));
    }
  }
}

// Groups of two: the sum of two prefers {0.6, 0.6}, the largest prefers {0.9, 0.1}.
TEST(Router, GroupRulesDiffer) {
  const auto logit = [](double p) { return static_cast<float>(std::log(p / (1 - p))); };
  const std::vector<float> logits{logit(0.6), logit(0.6), logit(0.9), logit(0.1)};
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    RouterShape s{4, 2, Score::kSigmoid, false, 1, 2, 1, GroupScore::kTop2Sum};
    EXPECT_EQ(route(*k, stream, s, logits, nullptr).idx, (std::vector<std::int32_t>{0, 1}));
    s.group_score = GroupScore::kMax;
    EXPECT_EQ(route(*k, stream, s, logits, nullptr).idx, (std::vector<std::int32_t>{2, 3}));
  }
}

// The bias decides who is chosen; the gate is made of the score without it, also where the key is negative.
TEST(Router, BiasChoosesButDoesNotWeigh) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    const std::vector<float> logits{2, 0, 0, 0}, bias{-5, -2, -3, -4};
    const Routed r = route(*k, stream, {4, 2, Score::kSigmoid, false}, logits, bias.data());
    EXPECT_EQ(r.idx, (std::vector<std::int32_t>{1, 2}));
    EXPECT_FLOAT_EQ(r.gate[0], 0.5f);
    EXPECT_FLOAT_EQ(r.gate[1], 0.5f);
    // Groups of negative keys are not outdone by masked ones.
    const Routed g = route(*k, stream, {4, 2, Score::kSigmoid, true, 1, 2, 1, GroupScore::kMax}, logits, bias.data());
    EXPECT_EQ(g.idx, (std::vector<std::int32_t>{1, 0}));
  }
}

TEST(Router, NotANumberStillGivesDistinctValidExperts) {
  const float nan = std::nanf(""), inf = HUGE_VALF;
  for (const Kernels* k : all_isas())
    for (const Case& c : cases()) {
      const RouterShape& s = c.shape;
      for (const float bad : {nan, inf, -inf})
        for (const bool all : {false, true}) {
          auto logits = random_floats(3 * s.num_experts, 1);
          for (std::size_t i = 0; i < logits.size(); i += all ? 1 : 3) logits[i] = bad;
          Stream stream(kernel_device(), 1);
          const Routed r = route(*k, stream, s, logits, nullptr);
          for (int t = 0; t < 3; ++t) {
            const std::set<std::int32_t> chosen(&r.idx[t * s.top_k], &r.idx[t * s.top_k] + s.top_k);
            EXPECT_EQ(static_cast<int>(chosen.size()), s.top_k);
            EXPECT_TRUE(*chosen.begin() >= 0 && *chosen.rbegin() < s.num_experts);
          }
        }
    }
}

TEST(Router, GradientIsThatOfTheFormula) {
  for (const Kernels* k : all_isas())
    for (const Case& c : cases()) {
      const RouterShape& s = c.shape;
      SCOPED_TRACE(std::string(k->isa) + " E " + std::to_string(s.num_experts));
      const auto logits = random_floats(kTokens * s.num_experts, 1, -2, 2), dgate = random_floats(kTokens * s.top_k, 3);
      Stream stream(kernel_device(), 2);
      const Routed r = route(*k, stream, s, logits, nullptr);
      std::vector<float> dscores(logits.size(), 9.0f);
      k->router.backward_gates(stream, s, r.scores.data(), kTokens, r.idx.data(), dgate.data(), dscores.data());
      k->router.backward_scores(stream, s, r.scores.data(), kTokens, dscores.data(), dscores.data());
      const auto weighted_gates = [&](const std::vector<double>& x) {
        double sum = 0;
        for (std::int64_t t = 0; t < kTokens; ++t) {
          const auto gate = gates_of<double>(s, scores_of<double>(s, &x[t * s.num_experts]), &r.idx[t * s.top_k]);
          for (int i = 0; i < s.top_k; ++i) sum += gate[i] * dgate[t * s.top_k + i];
        }
        return sum;
      };
      expect_gradient(weighted_gates, doubles(logits), dscores, 1e-4);
    }
}

TEST(Router, BitsDoNotDependOnThreads) {
  for (const Kernels* k : all_isas())
    for (const Case& c : cases()) {
      const std::int64_t T = on_host() ? 67 : 1 + 140000 / 8 / c.shape.num_experts;  // enough for several threads
      const auto logits = random_floats(T * c.shape.num_experts, 1, -4, 4), dgate = random_floats(T * c.shape.top_k, 2);
      expect_same_bits_with_any_threads([&](Stream& stream) {
        Routed r = route(*k, stream, c.shape, logits, nullptr);
        std::vector<float> ds(logits.size()), all = r.gate;
        k->router.backward_gates(stream, c.shape, r.scores.data(), T, r.idx.data(), dgate.data(), ds.data());
        k->router.backward_scores(stream, c.shape, r.scores.data(), T, ds.data(), ds.data());
        all.insert(all.end(), r.idx.begin(), r.idx.end());
        all.insert(all.end(), ds.begin(), ds.end());
        return all;
      });
    }
}

TEST(Router, RefusesShapes) {
  Stream stream(kernel_device(), 1);
  std::vector<float> f(64);
  std::vector<std::int32_t> idx(64, 9);
  for (const Kernels* k : all_isas()) {
    for (const RouterShape& s :
         {RouterShape{4, 5}, RouterShape{0, 1}, RouterShape{8, 0}, RouterShape{8, 2, Score::kSigmoid, true, 1, 3, 1},
          RouterShape{8, 3, Score::kSigmoid, true, 1, 4, 1}, RouterShape{8, 2, Score::kSigmoid, true, 1, 4, 5}})
      EXPECT_THROW(k->router.forward(stream, s, f.data(), 1, nullptr, f.data(), idx.data(), f.data()),
                   std::invalid_argument);
    EXPECT_THROW(k->router.backward_gates(stream, {4, 5}, f.data(), 1, idx.data(), f.data(), f.data()),
                 std::invalid_argument);
    EXPECT_THROW(k->router.backward_scores(stream, {0, 1}, f.data(), 1, f.data(), f.data()), std::invalid_argument);
    if (tests_cuda()) continue;  // values are not looked at there
    EXPECT_THROW(k->router.backward_gates(stream, {8, 2}, f.data(), 1, idx.data(), f.data(), f.data()),
                 std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
