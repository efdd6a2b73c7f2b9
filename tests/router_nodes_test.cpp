// The node limit of routers: against the specification in double on random shapes, ties, uneven nodes, the node limit that
// changes nothing, and tokens for which it leaves too few experts. Not here: its gradients (router_test.cpp's cases).
#include <set>

#include "tests/kernel_test.h"
#include "tests/reference_router.h"

namespace moe {
namespace {

constexpr std::int64_t kTokens = 53;

struct Routed {
  std::vector<float> scores, gate;
  std::vector<std::int32_t> idx;
};
Routed route(const Kernels& k, const RouterShape& s, const std::vector<float>& logits, const std::vector<float>& bias) {
  const auto T = static_cast<std::int64_t>(logits.size()) / s.num_experts;
  Routed r{std::vector<float>(logits.size()), std::vector<float>(T * s.top_k), std::vector<std::int32_t>(T * s.top_k, -5)};
  Stream stream(kernel_device(), 2);
  k.router.forward(stream, s, logits.data(), T, bias.empty() ? nullptr : bias.data(), r.scores.data(), r.idx.data(),
                   r.gate.data());
  return r;
}

// A sigmoid router whose scores are exact halves: keys come from the bias alone.
std::vector<std::int32_t> choose_by(const Kernels& k, const RouterShape& s, const std::vector<float>& bias) {
  return route(k, s, std::vector<float>(bias.size(), 0.0f), bias).idx;
}
RouterShape sigmoid(int experts, int top_k, const std::vector<std::int32_t>& expert2node, int nodes, int kept) {
  RouterShape s{experts, top_k, Score::kSigmoid};
  s.expert2node = expert2node.data(), s.num_nodes = nodes, s.num_nodes_kept = kept;
  return s;
}
using Ids = std::vector<std::int32_t>;

// A random router: any map of experts to nodes, groups or none. Every num_nodes_kept nodes hold K experts, as each node
// has one expert in each group at least and K <= num_nodes_kept * num_groups_kept.
struct RandomCase {
  RouterShape shape;
  Ids expert2node;
  std::vector<float> logits, bias;
  explicit RandomCase(std::uint64_t seed) {
    auto pick = [at = seed * 100](int low, int high) mutable { return random_ints(1, ++at, low, high + 1)[0]; };
    shape.num_nodes = pick(1, 6), shape.num_nodes_kept = pick(1, shape.num_nodes);
    shape.num_groups = pick(1, 5), shape.num_groups_kept = pick(1, shape.num_groups);
    const int width = shape.num_nodes + pick(0, 13);
    shape.num_experts = width * shape.num_groups;
    shape.top_k = pick(1, shape.num_nodes_kept * shape.num_groups_kept);
    shape.score = pick(0, 1) == 0 ? Score::kSoftmax : Score::kSigmoid;
    shape.group_score = pick(0, 1) == 0 ? GroupScore::kMax : GroupScore::kTop2Sum;
    expert2node = random_ints(shape.num_experts, seed, 0, shape.num_nodes);
    for (int e = 0; e < shape.num_experts; ++e)
      if (e % width < shape.num_nodes) expert2node[e] = (e % width + e / width) % shape.num_nodes;
    shape.expert2node = expert2node.data();
    logits = random_floats(kTokens * shape.num_experts, seed + 1, -4, 4);
    if (pick(0, 1) == 1) bias = random_floats(shape.num_experts, seed + 2, -0.3f, 0.3f);
  }
  RandomCase(const RandomCase&) = delete;
  ModelConfig config() const {
    ModelConfig c;
    c.num_experts = shape.num_experts, c.top_k = shape.top_k, c.router_score = shape.score;
    c.router_renormalize = false, c.group_score = shape.group_score;
    c.num_expert_groups = shape.num_groups, c.num_groups_kept = shape.num_groups_kept;
    return c;
  }
  reference::Matrix wide_logits() const {
    reference::Matrix m(kTokens, shape.num_experts);
    m.v = doubles(logits);
    return m;
  }
};

TEST(RouterNodes, AgreesWithTheSpecification) {
  for (const Kernels* k : all_isas())
    for (std::uint64_t seed = 1; seed <= (on_host() ? 30 : 60); ++seed) {
      const RandomCase c(seed);
      const Routed r = route(*k, c.shape, c.logits, c.bias);
      const auto want =
          reference::route(c.config(), c.wide_logits(), doubles(c.bias), {c.expert2node, c.shape.num_nodes_kept});
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const std::int32_t* idx = &r.idx[t * c.shape.top_k];
        ASSERT_EQ(std::vector<int>(idx, idx + c.shape.top_k), want.experts[t])
            << k->isa << " case " << seed << " token " << t;
        std::set<int> nodes;
        for (int i = 0; i < c.shape.top_k; ++i) nodes.insert(c.expert2node[idx[i]]);
        EXPECT_LE(static_cast<int>(nodes.size()), c.shape.num_nodes_kept);
      }
    }
}

TEST(RouterNodes, AllNodesKeptChangeNoBit) {
  for (const Kernels* k : all_isas())
    for (std::uint64_t seed = 1; seed <= 20; ++seed) {
      const RandomCase c(seed);
      RouterShape off = c.shape, all = c.shape;
      off.expert2node = nullptr, all.num_nodes_kept = all.num_nodes;
      const Routed want = route(*k, off, c.logits, c.bias), got = route(*k, all, c.logits, c.bias);
      EXPECT_EQ(got.idx, want.idx);
      EXPECT_TRUE(same_bits(std::span(got.gate), std::span(want.gate)));
      EXPECT_TRUE(same_bits(std::span(got.scores), std::span(want.scores)));
    }
}

TEST(RouterNodes, TiesGoToTheLowestNode) {
  const Ids scattered{2, 0, 1, 2, 0, 1, 2, 0, 1};
  for (const Kernels* k : all_isas()) {
    EXPECT_EQ(choose_by(*k, sigmoid(9, 2, scattered, 3, 1), std::vector<float>(9)), (Ids{1, 4}));
    EXPECT_EQ(choose_by(*k, sigmoid(9, 4, scattered, 3, 2), std::vector<float>(9)), (Ids{1, 2, 4, 5}));
  }
}

// K = 3 of 2 nodes: 2 scores count. Node 0 has 4.5 + 4.5, node 1 has 7; node 2 has 6.5 + 3.5 and then 3 + 3, where a third
// one would have counted for more than node 1.
TEST(RouterNodes, ScoreIsTheSumOfAsManyAsANodeMayExpect) {
  const Ids expert2node{0, 0, 1, 2, 2, 2};
  const std::vector<float> bias{4, 4, 6.5f, 6, 3, 2.75f}, flat{4, 4, 6.5f, 2.5f, 2.5f, 2};
  for (const Kernels* k : all_isas()) {
    EXPECT_EQ(choose_by(*k, sigmoid(6, 3, expert2node, 3, 2), bias), (Ids{3, 0, 1}));
    EXPECT_EQ(choose_by(*k, sigmoid(6, 3, expert2node, 3, 2), flat), (Ids{2, 0, 1}));
    EXPECT_EQ(choose_by(*k, sigmoid(6, 2, expert2node, 3, 2), bias), (Ids{2, 3}));  // one score counts
    EXPECT_EQ(choose_by(*k, sigmoid(6, 3, expert2node, 3, 1), bias), (Ids{3, 4, 5}));
  }
}

// Groups {0, 1} and {2, 3}; the second is out, and with it all of node 1 and the best of node 0.
TEST(RouterNodes, ExpertsOutsideTheGroupsDoNotCount) {
  const Ids expert2node{0, 2, 1, 0};
  RouterShape s = sigmoid(4, 1, expert2node, 3, 1);
  s.num_groups = 2, s.num_groups_kept = 1, s.group_score = GroupScore::kTop2Sum;
  for (const Kernels* k : all_isas()) {
    EXPECT_EQ(choose_by(*k, s, {5, 6, 0.5f, 8}), Ids{1});
    s.top_k = 2, s.num_nodes_kept = 2;
    EXPECT_EQ(choose_by(*k, s, {5, 6, 0.5f, 8}), (Ids{1, 0}));
    s.top_k = 1, s.num_nodes_kept = 1;
  }
}

// Sums of such keys leave the range of floats; a node with experts must still not fall behind one without.
TEST(RouterNodes, KeysThatCannotBeOrderedStillGiveExperts) {
  const Ids expert2node{1, 1, 2, 2, 1, 2};  // node 0 is empty
  for (const Kernels* k : all_isas())
    for (const float bad : {std::nanf(""), -HUGE_VALF, -3e38f})
      EXPECT_EQ(choose_by(*k, sigmoid(6, 3, expert2node, 3, 1), std::vector<float>(6, bad)), (Ids{0, 1, 4}));
}

TEST(RouterNodes, RefusesMapsAndTokensWithTooFewExperts) {
  const Ids small_node{0, 1, 1, 1}, outside{0, 1, 2, 0}, negative{0, -1, 0, 0};
  for (const Kernels* k : all_isas()) {
    EXPECT_EQ(choose_by(*k, sigmoid(4, 2, small_node, 2, 1), {0, 1, 0, 0}), (Ids{1, 2}));
    if (tests_cuda())  // the best of the others
      EXPECT_EQ(choose_by(*k, sigmoid(4, 3, small_node, 2, 1), {9, 1, 0, 2}), (Ids{0, 3, 1}));
    else
      EXPECT_THROW(choose_by(*k, sigmoid(4, 2, small_node, 2, 1), {9, 1, 0, 0}), std::invalid_argument);
    EXPECT_THROW(choose_by(*k, sigmoid(4, 2, outside, 2, 1), std::vector<float>(4)), std::invalid_argument);
    EXPECT_THROW(choose_by(*k, sigmoid(4, 2, negative, 2, 2), std::vector<float>(4)), std::invalid_argument);
    EXPECT_THROW(choose_by(*k, sigmoid(4, 2, small_node, 2, 0), std::vector<float>(4)), std::invalid_argument);
    EXPECT_THROW(choose_by(*k, sigmoid(4, 2, small_node, 2, 3), std::vector<float>(4)), std::invalid_argument);
  }
  ModelConfig c;
  c.num_experts = 4, c.top_k = 2;
  EXPECT_THROW(reference::route(c, reference::Matrix(1, 4), std::vector<double>{9, 1, 0, 0}, {small_node, 1}),
               std::invalid_argument);
}

}  // namespace
}  // namespace moe
