// Multi-head latent attention as a configuration: published counts and work, YaRN's frequencies, refusals, the list of
// parameters, memory by recomputation policy. Not here: values and gradients (model_test.cpp, train_mesh_test.cpp).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lib/base/error.h"
#include "lib/model/model.h"
#include "tests/config_refusal.h"
#include "tests/model_cases.h"
#include "tests/reference_attention.h"

namespace moe {
namespace {

ModelConfig published(int layers, int d_model, int heads, int q_rank, int dense_layers, int dense_ffn, int experts,
                      int top_k, int shared, int expert_ffn, int vocab) {
  ModelConfig c;
  c.attention = AttentionKind::kMla;
  c.num_layers = layers, c.d_model = d_model, c.num_heads = heads, c.vocab_size = vocab;
  c.q_lora_rank = q_rank, c.kv_lora_rank = 512, c.qk_nope_head_dim = 128, c.qk_rope_head_dim = 64, c.v_head_dim = 128;
  c.num_dense_layers = dense_layers, c.dense_ffn = dense_ffn;
  c.num_experts = experts, c.top_k = top_k, c.num_shared_experts = shared, c.expert_ffn = expert_ffn;
  return c;
}

// DeepSeek-V3 and Kimi-K2 count the biases of their routers.
TEST(MlaCounts, PublishedModels) {
  struct Row {
    const char* name;
    ModelConfig config;
    bool bias;
    std::int64_t total;
    double active, gflop;  // input embedding included; at 4096, causal
  };
  const Row rows[] = {
      {"V2-Lite", published(27, 2048, 16, 0, 1, 10944, 64, 6, 2, 1408, 102400), false, 15706484224, 2.661e9, 16.4},
      {"V2", published(60, 5120, 128, 1536, 1, 12288, 160, 6, 2, 1536, 102400), false, 235741434880, 21.376e9, 155.3},
      {"V3", published(61, 7168, 128, 1536, 3, 18432, 256, 8, 1, 2048, 129280), true, 671026419200, 37.552e9, 250.5},
      {"K2", published(61, 7168, 64, 1536, 1, 18432, 384, 8, 1, 2048, 163840), true, 1026408232448, 32.862e9, 205.5}};
  for (Row row : rows) {
    SCOPED_TRACE(row.name);
    row.config.router_bias = row.bias;
    EXPECT_NO_THROW(check_config(row.config));
    EXPECT_EQ(count_parameters(row.config).total, row.total);
    EXPECT_NEAR(static_cast<double>(count_parameters(row.config).active), row.active, 1e6);
    EXPECT_NEAR(flop_per_token(row.config, 4096) / 1e9, row.gflop, 0.005 * row.gflop);
  }
}

ModelConfig small_mla(int q_rank) {
  ModelConfig c = small_model();
  c.attention = AttentionKind::kMla, c.q_lora_rank = q_rank, c.kv_lora_rank = 9;
  c.qk_nope_head_dim = 5, c.qk_rope_head_dim = 4, c.v_head_dim = 7;
  return c;
}

TEST(MlaParams, AreThoseOfTheSpecification) {
  for (const int q_rank : {0, 6}) {
    const ModelConfig c = small_mla(q_rank);
    const std::vector<ParamSpec> specs = parameter_specs(c);
    const std::vector<ReferenceShape> want = reference_shapes(c);
    ASSERT_EQ(specs.size(), want.size());
    for (std::size_t i = 0; i < specs.size(); ++i) {
      EXPECT_EQ(specs[i].name, want[i].name);
      EXPECT_EQ(specs[i].shape, want[i].dims) << want[i].name;
      EXPECT_EQ(specs[i].init_std > 0, want[i].dims.size() > 1) << want[i].name;
    }
  }
}

// Values of DeepSeek-V2-Lite's configuration: 64 columns, base 10000, factor 40, original length 4096. Pairs up to 10 turn
// more than 32 times and stay, those from 23 on turn less than once.
TEST(Yarn, FrequenciesOfDeepSeekV2Lite) {
  ModelConfig c = small_mla(0);
  c.qk_rope_head_dim = 64;
  c.yarn = {.factor = 40, .mscale = 0.707f, .mscale_all_dim = 0.707f};
  const auto plain = [](int i) { return std::pow(10000.0, -i / 32.0); };
  for (const int i : {0, 5, 10}) EXPECT_DOUBLE_EQ(c.rope_frequency(i), plain(i)) << i;
  for (const int i : {23, 24, 31}) EXPECT_NEAR(c.rope_frequency(i), plain(i) / 40, 1e-15) << i;
  EXPECT_NEAR(c.rope_frequency(15), plain(15) * (8.0 / 13 + 5.0 / 13 / 40), 1e-12);
  EXPECT_DOUBLE_EQ(c.yarn.table_factor(), 1);
  EXPECT_NEAR(c.yarn.score_factor(), 1.2608 * 1.2608, 1e-4);  // 0.1 * 0.707 * ln 40 + 1
  c.yarn.mscale_all_dim = 0;
  EXPECT_NEAR(c.yarn.table_factor(), 1.2608, 1e-4);
  EXPECT_DOUBLE_EQ(c.yarn.score_factor(), 1);
}

TEST(Yarn, IsTheSpecifications) {
  for (const float factor : {1.0f, 4.0f, 40.0f})
    for (const bool truncate : {true, false})
      for (const int width : {2, 10, 64}) {
        ModelConfig c = small_mla(0);
        c.qk_rope_head_dim = width, c.rope_theta = 50000;
        c.yarn = {.factor = factor, .original_length = 300, .beta_fast = 20, .truncate = truncate, .mscale = 0.5f};
        const std::vector<double> want = reference::rope_frequencies(c);
        for (int i = 0; i < width / 2; ++i) EXPECT_NEAR(c.rope_frequency(i), want[static_cast<std::size_t>(i)], 1e-14) << i;
        EXPECT_NEAR(c.yarn.table_factor(), reference::rope_factor(c), 1e-14);
      }
}

TEST(MlaConfig, RefusesWhatCannotBe) {
  struct Row {
    const char* says;
    void (*spoil)(ModelConfig&);
  };
  const Row rows[] = {
      {"--kv-lora-rank", [](ModelConfig& c) { c.kv_lora_rank = 0; }},
      {"--q-lora-rank", [](ModelConfig& c) { c.q_lora_rank = -1; }},
      {"--qk-nope-head-dim", [](ModelConfig& c) { c.qk_nope_head_dim = 0; }},
      {"--qk-rope-head-dim", [](ModelConfig& c) { c.qk_rope_head_dim = 3; }},
      {"--v-head-dim", [](ModelConfig& c) { c.v_head_dim = 0; }},
      {"--qk-norm", [](ModelConfig& c) { c.qk_norm = QkNorm::kHead; }},
      {"--rope-theta", [](ModelConfig& c) { c.rope_theta = 0; }},
      {"--rope-factor", [](ModelConfig& c) { c.yarn.factor = 0.5f; }},
      {"--rope-theta", [](ModelConfig& c) { c.yarn.factor = 2, c.rope_theta = 1; }},
      {"--rope-original-length", [](ModelConfig& c) { c.yarn.factor = 2, c.yarn.original_length = 0; }},
      {"--rope-beta-slow", [](ModelConfig& c) { c.yarn.factor = 2, c.yarn.beta_slow = 0; }},
      {"--rope-beta-fast", [](ModelConfig& c) { c.yarn.factor = 2, c.yarn.beta_fast = 0.5f; }},
      {"--rope-mscale:", [](ModelConfig& c) { c.yarn.factor = 2, c.yarn.mscale = -1; }},
      {"--rope-mscale-all-dim", [](ModelConfig& c) { c.yarn.factor = 2, c.yarn.mscale_all_dim = -1; }},
  };
  for (const Row& row : rows) {
    ModelConfig c = small_mla(4);
    EXPECT_EQ(config_refusal(c), "nothing");
    row.spoil(c);
    EXPECT_THAT(config_refusal(c), ::testing::HasSubstr(row.says));
  }
  ModelConfig c = small_mla(4);
  c.num_kv_heads = 3, c.head_dim = 5;  // of the other attention
  EXPECT_EQ(config_refusal(c), "nothing");
}

// Of 30 layers: what the light policy computes again is taken once.
TEST(MlaMemory, LightKeepsCompressedVectorsOnly) {
  ModelConfig c = small_mla(6);
  c.num_layers = c.num_dense_layers = 30, c.dense_ffn = 1;
  const BatchShape shape{4, 64};
  const auto activations = [&](Recompute recompute) {
    return static_cast<double>(predict_memory(c, DType::kF32, {.shape = shape, .recompute = recompute}).activations);
  };
  const double T = 4.0 * shape.num_tokens(), H = c.num_heads;
  const double up = T * (c.kv_lora_rank + c.q_lora_rank + H * (2 * c.qk_dim() + c.v_head_dim));  // norms, q, k, v
  const double others = T * (2 * c.d_model + c.dense_ffn);                                       // n1, n2, h
  const double saved = activations(Recompute::kNone) - activations(Recompute::kLight);
  EXPECT_NEAR(saved, 29 * (up + others), 0.02 * saved);
  EXPECT_LT(activations(Recompute::kFull), activations(Recompute::kLight));
}

}  // namespace
}  // namespace moe
