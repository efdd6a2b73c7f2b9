// The specification against finite differences and against what is known exactly. That it means the same as an
// independent framework is golden_reference_test.cpp.
#include "tests/reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "tests/compare.h"
#include "tests/reference_router.h"
#include "tests/reference_train.h"

namespace moe {
namespace {

struct Case {
  std::string name;
  ModelConfig config;
  ReferenceInput input;
  ReferenceLoss loss;
};

ModelConfig small() {
  ModelConfig c;
  c.vocab_size = 13, c.num_layers = 2, c.d_model = 6;
  c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 4, c.top_k = 2, c.expert_ffn = 5;
  return c;
}

ReferenceInput random_input(const ModelConfig& c, int num_seqs, int seq_len, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  ReferenceInput in;
  in.num_seqs = num_seqs, in.seq_len = seq_len;
  for (int t = 0; t < num_seqs * seq_len; ++t) {
    in.tokens.push_back(static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(c.vocab_size)));
    in.targets.push_back(t % 5 == 3 ? -1 : static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(c.vocab_size)));
  }
  return in;
}

Case make_case(const std::string& name, ModelConfig c, ReferenceLoss loss, int num_seqs = 2, int seq_len = 5) {
  return {name, c, random_input(c, num_seqs, seq_len, 3), loss};
}

Case deepseek_v3() {
  ModelConfig c = small();
  c.num_layers = 3, c.num_dense_layers = 1, c.dense_ffn = 7, c.num_shared_experts = 2;
  c.num_experts = 6, c.top_k = 3, c.num_expert_groups = 3, c.num_groups_kept = 2;
  c.router_score = Score::kSigmoid, c.router_scale = 2.5f, c.router_bias = true;
  Case v3 = make_case("DeepSeekV3", c, {.seq_aux = 0.3});
  for (int i = 1; i < 3; ++i)
    v3.input.router_bias["layers." + std::to_string(i) + ".router.bias"] = {0.2, -0.1, 0.0, 0.3, -0.2, 0.1};
  return v3;
}

// One expert on node 0, three on node 1, two on node 2. Any two hold the three that a token takes.
Case two_of_three_nodes() {
  Case c = deepseek_v3();
  c.name = "TwoOfThreeNodes";
  c.config.num_expert_groups = c.config.num_groups_kept = 1;
  c.input.expert2node = {1, 0, 1, 2, 2, 1}, c.input.num_nodes_kept = 2;
  return c;
}

Case all_losses() {
  Case all = make_case("AllLosses", small(), {.aux = 0.5, .seq_aux = 0.3, .global_aux = 0.7, .z = 0.1});
  all.input.global_f = {{0.4, 0.3, 0.2, 0.1}, {0.1, 0.1, 0.1, 0.7}};
  return all;
}

ModelConfig latent(int q_rank) {
  ModelConfig c = deepseek_v3().config;
  c.attention = AttentionKind::kMla, c.rope_interleaved = true;
  c.q_lora_rank = q_rank, c.kv_lora_rank = 7, c.qk_nope_head_dim = 3, c.qk_rope_head_dim = 4, c.v_head_dim = 5;
  return c;
}

// The limit cuts some of the values and leaves others.
ModelConfig gpt_oss() {
  ModelConfig c = small();
  c.attention_bias = c.attention_sinks = c.router_logit_bias = c.expert_bias = true;
  c.sliding_window = 3, c.layer_types = "sliding,full", c.swiglu_limit = 0.6f;
  return c;
}

std::vector<Case> cases() {
  std::vector<Case> list = {make_case("Mixtral", small(), {}), deepseek_v3(), two_of_three_nodes(), all_losses()};
  list.push_back(make_case("LatentPlainQueries", latent(0), {}));
  ModelConfig yarn = latent(5);
  yarn.rope_interleaved = false;
  yarn.yarn = {.factor = 4, .original_length = 8, .beta_fast = 2, .beta_slow = 0.2f, .mscale = 0.7f, .mscale_all_dim = 0.5f};
  list.push_back(make_case("LatentCompressedQueriesYarn", yarn, {}));
  list.back().input.doc_start = {0, 0, 2, 2, 2, 0, 1, 2, 3, 3};
  ModelConfig c = small();
  c.router_renormalize = false, c.qk_norm = QkNorm::kFull;
  list.push_back(make_case("FullQkNormNoRenormalize", c, {.aux = 0.5, .z = 0.1}));
  c.qk_norm = QkNorm::kHead, c.num_heads = 3, c.num_kv_heads = 3;
  list.push_back(make_case("HeadQkNorm", c, {}, 1, 7));
  c = small();
  c.tied_embeddings = true, c.num_expert_groups = 2, c.num_groups_kept = 1, c.group_score = GroupScore::kMax;
  c.router_renormalize = false, c.router_scale = 3;
  list.push_back(make_case("TiedGroupMax", c, {.seq_aux = 0.2}, 3, 3));
  c = small();
  c.num_experts = 1, c.top_k = 1, c.num_layers = 1;
  list.push_back(make_case("OneOfEverything", c, {.aux = 0.5, .seq_aux = 0.5, .z = 0.5}, 1, 1));
  list.push_back(make_case("GptOss", gpt_oss(), {.aux = 0.5}, 2, 6));
  c = gpt_oss();
  c.num_dense_layers = 1, c.dense_ffn = 4, c.num_shared_experts = 1, c.layer_types = "full,sliding", c.sliding_window = 2;
  list.push_back(make_case("GptOssDenseShared", c, {.z = 0.1}));
  list.back().input.doc_start = {0, 0, 2, 2, 2, 0, 1, 2, 3, 3};
  c = latent(0);
  c.layer_types = "sliding", c.sliding_window = 3;
  list.push_back(make_case("LatentSliding", c, {}));
  list.push_back(make_case("Documents", small(), {}));
  list.back().input.doc_start = {0, 0, 2, 2, 2, 0, 1, 2, 3, 3};
  c = small();
  c.num_mtp_layers = 1;
  list.push_back(make_case("OneModule", c, {.aux = 0.5, .z = 0.1, .mtp = 0.7}));
  c = latent(5);
  c.num_mtp_layers = 3, c.tied_embeddings = true;
  list.push_back(make_case("ThreeModulesTied", c, {.seq_aux = 0.3, .mtp = 0.7}));
  list.push_back(make_case("ModulesDocuments", c, {.mtp = 2}, 2, 8));
  list.back().input.doc_start = {0, 0, 2, 2, 2, 2, 2, 2, 0, 1, 2, 2, 2, 2, 6, 6};
  return list;
}

class Gradients : public ::testing::TestWithParam<Case> {
 protected:
  double total(const ReferenceParams& params) const {
    return reference_forward(GetParam().config, params, GetParam().input, GetParam().loss).terms.total();
  }
  // Central difference of the total along `direction`, which has the size of one parameter.
  double slope(ReferenceParams params, const std::string& name, const std::vector<double>& direction) const {
    const double h = 3e-6;  // norms of short vectors bend sharply
    const auto move = [&](double by) {
      for (std::size_t i = 0; i < direction.size(); ++i) params.at(name)[i] += by * direction[i];
    };
    move(h);
    const double above = total(params);
    move(-2 * h);
    return (above - total(params)) / (2 * h);
  }
};

// Of every parameter: the steepest element, eight others and one random direction.
TEST_P(Gradients, AgreeWithFiniteDifferences) {
  const ReferenceParams params = reference_random_params(GetParam().config, 5, 0.5);
  const ReferenceOutput out = reference_run(GetParam().config, params, GetParam().input, GetParam().loss);
  std::mt19937_64 bits(11);
  for (const auto& [name, grad] : out.grads) {
    std::vector<double> direction;
    double want = 0, largest = 0;
    for (const double g : grad) {
      direction.push_back(static_cast<double>(bits() % 2001) / 1000.0 - 1);
      want += g * direction.back();
      largest = std::fmax(largest, std::fabs(g));
    }
    const double tolerance = 1e-7 * (largest + 1e-2) * std::sqrt(static_cast<double>(grad.size()));
    EXPECT_NEAR(slope(params, name, direction), want, tolerance) << name << " along a random direction";
    const auto steepest =
        std::max_element(grad.begin(), grad.end(), [](double a, double b) { return std::fabs(a) < std::fabs(b); });
    std::vector<std::size_t> elements = {static_cast<std::size_t>(steepest - grad.begin())};
    for (int i = 0; i < 8; ++i) elements.push_back(bits() % grad.size());
    for (const std::size_t i : elements) {
      std::vector<double> unit(grad.size(), 0.0);
      unit[i] = 1;
      EXPECT_NEAR(slope(params, name, unit), grad[i], tolerance) << name << " element " << i;
    }
  }
}

TEST_P(Gradients, EveryParameterHasOne) {
  const ReferenceParams params = reference_random_params(GetParam().config, 5, 0.5);
  const ReferenceOutput out = reference_run(GetParam().config, params, GetParam().input, GetParam().loss);
  for (const ReferenceShape& s : reference_shapes(GetParam().config)) {
    const std::vector<double>& g = out.grads.at(s.name);
    EXPECT_EQ(static_cast<std::int64_t>(g.size()), s.size()) << s.name;
    // One token attends to itself whatever q and k are; one expert is chosen whatever the router says.
    if (GetParam().name == "OneOfEverything" && s.name.find("norm") == std::string::npos) continue;
    EXPECT_TRUE(std::any_of(g.begin(), g.end(), [](double a) { return a != 0; })) << s.name;
  }
}

INSTANTIATE_TEST_SUITE_P(Reference, Gradients, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(Reference, LaterTokensChangeNothingEarlier) {
  Case c = deepseek_v3();
  c.loss = {};
  const ReferenceParams params = reference_random_params(c.config, 5, 0.5);
  const std::vector<double> before = reference_forward(c.config, params, c.input).logits;
  c.input.tokens[3] = (c.input.tokens[3] + 1) % c.config.vocab_size;
  const std::vector<double> after = reference_forward(c.config, params, c.input).logits;
  const auto V = static_cast<std::size_t>(c.config.vocab_size);
  for (std::size_t t = 0; t < 10; ++t) {
    const bool same = std::equal(before.begin() + static_cast<std::ptrdiff_t>(t * V),
                                 before.begin() + static_cast<std::ptrdiff_t>((t + 1) * V),
                                 after.begin() + static_cast<std::ptrdiff_t>(t * V));
    EXPECT_EQ(same, t < 3 || t >= 5) << "token " << t;  // 3 and 4 follow in the first sequence
  }
}

// Rotations enter as differences of positions, so a packed document is what it would be alone.
TEST(Reference, DocumentsDoNotSeeEachOther) {
  const ModelConfig c = small();
  const ReferenceParams params = reference_random_params(c, 5, 0.5);
  ReferenceInput packed = random_input(c, 1, 6, 9), apart = packed;
  packed.doc_start = {0, 0, 0, 3, 3, 3};
  apart.num_seqs = 2, apart.seq_len = 3;
  const ReferenceOutput a = reference_run(c, params, packed), b = reference_run(c, params, apart);
  EXPECT_TRUE(close_to(std::span(a.logits), std::span(b.logits), 1e-13));
  for (const auto& [name, g] : b.grads) EXPECT_TRUE(close_to(std::span(a.grads.at(name)), std::span(g), 1e-12)) << name;
}

TEST(Reference, TiedIsUntiedWithTheSameHeadAndTheSumOfTheGradients) {
  ModelConfig tied = small(), untied = small();
  tied.tied_embeddings = true;
  const ReferenceParams params = reference_random_params(tied, 5, 0.5);
  ReferenceParams with_head = params;
  with_head["head.weight"] = params.at("embedding.weight");
  const ReferenceInput in = random_input(tied, 2, 4, 1);
  const ReferenceOutput a = reference_run(tied, params, in), b = reference_run(untied, with_head, in);
  EXPECT_EQ(a.logits, b.logits);
  std::vector<double> sum = b.grads.at("embedding.weight");
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b.grads.at("head.weight")[i];
  EXPECT_TRUE(close_to(std::span(a.grads.at("embedding.weight")), std::span(std::as_const(sum)), 1e-13));
}

TEST(Reference, CountsAddUpAndGroupsAreLimited) {
  const Case c = deepseek_v3();
  const ReferenceOutput out = reference_forward(c.config, reference_random_params(c.config, 5, 0.5), c.input, c.loss);
  EXPECT_TRUE(out.counts[0].empty());
  for (std::size_t layer = 1; layer < 3; ++layer) {
    std::int64_t sum = 0;
    for (const std::int64_t n : out.counts[layer]) sum += n;
    EXPECT_EQ(sum, 10 * 3);
    for (std::size_t t = 0; t < 10; ++t) {
      std::vector<bool> group(3, false);
      for (std::size_t k = 0; k < 3; ++k) group[static_cast<std::size_t>(out.experts[layer][t * 3 + k] / 2)] = true;
      EXPECT_LE(std::count(group.begin(), group.end(), true), 2);
    }
  }
}

// ---- the router by hand ---------------------------------------------------------------------------------------

reference::Matrix one_row(std::vector<double> v) {
  reference::Matrix m(1, static_cast<std::int64_t>(v.size()));
  m.v = std::move(v);
  return m;
}

TEST(ReferenceRouter, TiesGoToTheLowestIndex) {
  EXPECT_EQ(reference::largest(std::vector<double>{1, 2, 2, 1, 2}, 4), (std::vector<int>{1, 2, 4, 0}));
}

TEST(ReferenceRouter, SoftmaxOverTheChosenLogits) {
  ModelConfig c = small();
  const reference::Routing r = reference::route(c, one_row({1, 3, 2, -1}), {});
  EXPECT_EQ(r.experts[0], (std::vector<int>{1, 2}));
  EXPECT_NEAR(r.gates_TK(0, 0), 1 / (1 + std::exp(-1.0)), 1e-15);
  EXPECT_NEAR(r.gates_TK(0, 1), 1 / (1 + std::exp(1.0)), 1e-15);
}

// The bias moves the choice, not the gate; group scores are 0.7 + 0.6 and 0.9 + 0.1 or the largest, 0.7 and 0.9.
TEST(ReferenceRouter, GroupsAndBias) {
  ModelConfig c = small();
  c.router_score = Score::kSigmoid, c.num_expert_groups = 2, c.num_groups_kept = 1, c.top_k = 1, c.router_scale = 2;
  c.router_renormalize = false;
  const auto logit = [](double p) { return std::log(p / (1 - p)); };
  const reference::Matrix logits = one_row({logit(0.7), logit(0.6), logit(0.1), logit(0.9)});
  reference::Routing r = reference::route(c, logits, {});
  EXPECT_EQ(r.experts[0], std::vector<int>{0});
  EXPECT_NEAR(r.gates_TK(0, 0), 1.4, 1e-14);
  c.group_score = GroupScore::kMax;
  EXPECT_EQ(reference::route(c, logits, {}).experts[0], std::vector<int>{3});
  r = reference::route(c, logits, std::vector<double>{0, 0.5, 0, 0});
  EXPECT_EQ(r.experts[0], std::vector<int>{1});
  EXPECT_NEAR(r.gates_TK(0, 0), 1.2, 1e-14);
}

// Nodes score 0.7 + 0.6 and 0.9 + 0.1, or with one choice 0.7 and 0.9.
TEST(ReferenceRouter, Nodes) {
  ModelConfig c = small();
  c.router_score = Score::kSigmoid;
  const auto logit = [](double p) { return std::log(p / (1 - p)); };
  const reference::Matrix logits = one_row({logit(0.7), logit(0.1), logit(0.6), logit(0.9)});
  const std::vector<std::int32_t> expert2node{0, 1, 0, 1};
  EXPECT_EQ(reference::route(c, logits, {}, {expert2node, 2}).experts[0], (std::vector<int>{3, 0}));
  EXPECT_EQ(reference::route(c, logits, {}, {expert2node, 1}).experts[0], (std::vector<int>{0, 2}));
  c.top_k = 1;
  EXPECT_EQ(reference::route(c, logits, {}, {expert2node, 1}).experts[0], std::vector<int>{3});
}

TEST(ReferenceRouter, NodesOfTheInputHoldInEveryLayer) {
  const Case c = two_of_three_nodes();
  const ReferenceOutput out = reference_forward(c.config, reference_random_params(c.config, 5, 0.5), c.input, c.loss);
  for (std::size_t layer = 1; layer < 3; ++layer)
    for (std::size_t t = 0; t < 10; ++t) {
      std::vector<bool> node(3, false);
      for (std::size_t k = 0; k < 3; ++k)
        node[static_cast<std::size_t>(c.input.expert2node[static_cast<std::size_t>(out.experts[layer][t * 3 + k])])] = true;
      EXPECT_LE(node[0] + node[1] + node[2], 2);
    }
}

// E tokens, token t prefers expert t: counts are equal, and so are the means of the probabilities.
TEST(ReferenceRouter, BalanceLossesOfPerfectBalanceAreTheirCoefficients) {
  ModelConfig c = small();
  c.top_k = 1;
  reference::Matrix logits(4, 4);
  for (int t = 0; t < 4; ++t) logits(t, t) = 1.5;
  const std::vector<double> f(4, 0.25);
  const reference::Balance b{{.aux = 0.5, .seq_aux = 0.25, .global_aux = 0.125, .z = 0}, 1, 4, f};
  ReferenceTerms terms;
  reference::add_balance_terms(c, reference::route(c, logits, {}), b, terms);
  EXPECT_NEAR(terms.aux, 0.5, 1e-15);
  EXPECT_NEAR(terms.seq_aux, 0.25, 1e-15);
  EXPECT_NEAR(terms.global_aux, 0.125, 1e-15);
}

TEST(ReferenceRouter, AllToOneCostsETimesItsProbability) {
  ModelConfig c = small();
  c.top_k = 1;
  reference::Matrix logits(3, 4);
  for (int t = 0; t < 3; ++t) logits(t, 2) = 2;
  ReferenceTerms terms;
  reference::add_balance_terms(c, reference::route(c, logits, {}), {{.aux = 1, .z = 1}, 1, 3, {}}, terms);
  EXPECT_NEAR(terms.aux, 4 * std::exp(2.0) / (std::exp(2.0) + 3), 1e-14);
  EXPECT_NEAR(terms.z, std::pow(std::log(std::exp(2.0) + 3), 2), 1e-14);
}

// ---- training -------------------------------------------------------------------------------------------------

TEST(ReferenceTraining, FirstStepMovesByTheLearningRate) {
  Case c = deepseek_v3();
  ReferenceTrainState state{reference_random_params(c.config, 5, 0.5), {}, {}, c.input.router_bias, 0};
  const ReferenceTrainState before = state;
  const ReferenceOutput out = reference_run(c.config, state.params, c.input, c.loss);
  reference_step(c.config, c.input, c.loss, {.lr = 0.01, .bias_update_speed = 0.5}, state);
  for (const auto& [name, w] : state.params)
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double g = out.grads.at(name)[i];
      if (g == 0 || std::fabs(g) > 1e-5) {
        ASSERT_NEAR(w[i] - before.params.at(name)[i], -0.01 * ((g > 0) - (g < 0)), 2e-5) << name;
      }
    }
  for (int layer = 1; layer < 3; ++layer)
    for (std::size_t e = 0; e < 6; ++e) {
      const std::string name = "layers." + std::to_string(layer) + ".router.bias";
      const std::int64_t missing = 5 - out.counts[static_cast<std::size_t>(layer)][e];  // the mean is 10 * 3 / 6
      EXPECT_EQ(state.router_bias.at(name)[e], before.router_bias.at(name)[e] + 0.5 * ((missing > 0) - (missing < 0)));
    }
}

TEST(ReferenceTraining, LearnsOneBatch) {
  const Case c = all_losses();
  ReferenceTrainState state{reference_random_params(c.config, 5, 0.3), {}, {}, {}, 0};
  const ReferenceTraining training{.lr = 0.02, .weight_decay = 0.1, .max_grad_norm = 1};
  const double first = reference_step(c.config, c.input, c.loss, training, state).terms.cross_entropy;
  double last = first;
  for (int i = 0; i < 60; ++i) last = reference_step(c.config, c.input, c.loss, training, state).terms.cross_entropy;
  EXPECT_LT(last, first / 3);
}

}  // namespace
}  // namespace moe
