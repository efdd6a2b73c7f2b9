// What must not change a single bit of a model's gradients: recomputation, threads, evaluation in between, running twice;
// and what may change only their last bits: accumulation over micro-batches. Not here: whether the values are right.
#include <gtest/gtest.h>

#include "tests/compare.h"
#include "tests/kernel_test.h"
#include "tests/model_cases.h"

namespace moe {
namespace {

RealOutput run(const ModelCase& m, RealSetting s) {
  s.mtp_weight = m.mtp_weight;
  return RealModel(m.config, m.params, m.input.router_bias, m.balance, m.input.num_seqs, m.input.seq_len, s)
      .gradients(m.input);
}

void expect_same(const RealOutput& got, const RealOutput& want) {
  EXPECT_EQ(got.loss, want.loss);
  EXPECT_EQ(got.total(), want.total());
  EXPECT_EQ(got.mtp, want.mtp);
  for (const auto& [name, grad] : want.grads) EXPECT_TRUE(same_bits(std::span(got.grads.at(name)), std::span(grad))) << name;
  for (std::size_t i = 0; i < want.tallies.size(); ++i) EXPECT_EQ(got.tallies[i].counts_E, want.tallies[i].counts_E);
}

// Large enough that kernels share their work between threads.
ModelCase wide_case() {
  ModelConfig c = small_model();
  c.d_model = 96, c.num_heads = 6, c.num_kv_heads = 3, c.head_dim = 16, c.expert_ffn = 80, c.vocab_size = 300;
  c.num_dense_layers = 1, c.dense_ffn = 130, c.num_shared_experts = 1, c.qk_norm = QkNorm::kHead;
  ModelCase m = make_case("wide", c, {.aux = 0.01f, .seq_aux = 0.01f, .global_aux = 0.01f, .z = 0.001f}, 4, 64, true);
  m.params = float_params(c, 1, 0.05);
  return m;
}

ModelCase wide_mla_case(int q_rank) {
  ModelCase m = wide_case();
  ModelConfig& c = m.config;
  c.attention = AttentionKind::kMla, c.qk_norm = QkNorm::kNone, c.rope_interleaved = true;
  c.q_lora_rank = q_rank, c.kv_lora_rank = 48, c.qk_nope_head_dim = 16, c.qk_rope_head_dim = 8, c.v_head_dim = 20;
  m.name = "wide_mla" + std::to_string(q_rank), m.params = float_params(c, 1, 0.05);
  return m;
}

ModelCase wide_gpt_oss_case() {
  ModelCase m = wide_case();
  ModelConfig& c = m.config;
  c.attention_bias = c.attention_sinks = c.router_logit_bias = c.expert_bias = true;
  c.sliding_window = 20, c.layer_types = "sliding,full", c.swiglu_limit = 0.3f;
  m.name = "wide_gpt_oss", m.params = float_params(c, 1, 0.05);
  return m;
}

ModelCase wide_mtp_case() {
  ModelCase m = wide_mla_case(40);
  m.config.num_mtp_layers = 2;
  m.name = "wide_mtp", m.params = float_params(m.config, 1, 0.05);
  return m;
}

std::vector<ModelCase> bit_cases() {
  std::vector<ModelCase> list;
  const std::vector<ModelCase> all = model_cases();
  for (std::size_t i = 0; i < all.size(); i += 5) list.push_back(all[i]);
  list.push_back(wide_case());
  list.push_back(wide_gpt_oss_case());
  for (const int q_rank : {0, 40}) list.push_back(wide_mla_case(q_rank));
  list.push_back(wide_mtp_case());
  list.push_back(wide_case());
  list.back().name = "wide_capacity", list.back().balance.capacity_factor = 0.8f;
  return list;
}

class ModelBits : public ::testing::TestWithParam<ModelCase> {};

TEST_P(ModelBits, RecomputationAndThreads) {
  for (const Kernels* kernels : all_isas())
    for (const DType dtype : kDTypes) {
      const RealOutput want = run(GetParam(), {.kernels = kernels, .dtype = dtype});
      const std::pair<Recompute, int> others[] = {{Recompute::kNone, 3}, {Recompute::kLight, 2}, {Recompute::kFull, 3}};
      for (const auto& [recompute, threads] : others) {
        SCOPED_TRACE(std::string(kernels->isa) + " " + name_of(dtype) + ", recompute " +
                     std::to_string(static_cast<int>(recompute)) + ", " + std::to_string(threads) + " threads");
        expect_same(run(GetParam(), {.kernels = kernels, .threads = threads, .dtype = dtype, .recompute = recompute}), want);
      }
    }
}

TEST_P(ModelBits, EvaluationInBetweenAndASecondRun) {
  const ModelCase& m = GetParam();
  const RealOutput want = run(m, {.threads = 2});
  RealModel model(m.config, m.params, m.input.router_bias, m.balance, m.input.num_seqs, m.input.seq_len,
                  {.threads = 2, .mtp_weight = m.mtp_weight});
  const std::vector<float> before = model.logits(m.input);
  expect_same(model.gradients(m.input), want);
  const std::vector<float> after = model.logits(m.input);
  EXPECT_TRUE(same_bits(std::span(after), std::span(before)));
  model.zero_gradients();
  expect_same(model.gradients(m.input), want);
}

INSTANTIATE_TEST_SUITE_P(Cases, ModelBits, ::testing::ValuesIn(bit_cases()),
                         [](const auto& info) { return info.param.name; });

// Sums over tokens in another order: only the last bits may differ. The micro-batch loss is a mean of means, so that
// only the sequence-wise loss and the z-loss mean the same in every cut.
TEST(Accumulation, MicroBatchesMeanTheWholeBatch) {
  ModelCase m = wide_case();
  m.balance = {.seq_aux = 0.05f, .z = 0.01f};
  const RealOutput want = run(m, {});
  for (const int micro_batch : {1, 2, 4})
    for (const Recompute recompute : {Recompute::kNone, Recompute::kFull}) {
      const RealOutput got = run(m, {.recompute = recompute, .micro_batch = micro_batch});
      EXPECT_NEAR(got.loss, want.loss, 1e-6 * want.loss);
      EXPECT_NEAR(got.seq_aux, want.seq_aux, 1e-6 * want.seq_aux);
      EXPECT_NEAR(got.z, want.z, 1e-6 * want.z);
      for (const auto& [name, grad] : want.grads)
        EXPECT_TRUE(close_to(std::span<const float>(got.grads.at(name)), std::span<const float>(grad), 2e-6)) << name;
      for (std::size_t i = 0; i < want.tallies.size(); ++i) EXPECT_EQ(got.tallies[i].counts_E, want.tallies[i].counts_E);
    }
}

}  // namespace
}  // namespace moe
