// The published presets against the dimensions that their makers publish: parameters to the last digit, summed here without
// the toolkit's list, active ones, and work. And what all presets promise. Not here: the options themselves, how a preset is
// applied (options_test.cpp), training with the small ones (presets_train_test.sh).
#include "lib/model/presets.h"

#include <gtest/gtest.h>

#include <set>

#include "lib/model/params.h"
#include "lib/run/schedule.h"
#include "tests/train_parsed.h"

namespace moe {
namespace {

using Int = std::int64_t;

// As in config.json; latent: heads of 128 + 64 / 128.
struct Dimensions {
  const char* name;
  Int layers, width, heads, kv_heads, head_dim;
  bool latent;
  Int query_rank, dense_layers, dense_ffn, experts, top_k, shared, ffn, vocab;
  enum { kNone, kHeadNorm, kFullNorm, kGptOss, kBias } extras;
};

const Dimensions kPublished[] = {
    {"mixtral-8x7b", 32, 4096, 32, 8, 128, false, 0, 0, 0, 8, 2, 0, 14336, 32000, Dimensions::kNone},
    {"mixtral-8x22b", 56, 6144, 48, 8, 128, false, 0, 0, 0, 8, 2, 0, 16384, 32000, Dimensions::kNone},
    {"deepseek-moe-16b", 28, 2048, 16, 16, 128, false, 0, 1, 10944, 64, 6, 2, 1408, 102400, Dimensions::kNone},
    {"deepseek-v2-lite", 27, 2048, 16, 0, 0, true, 0, 1, 10944, 64, 6, 2, 1408, 102400, Dimensions::kNone},
    {"deepseek-v2", 60, 5120, 128, 0, 0, true, 1536, 1, 12288, 160, 6, 2, 1536, 102400, Dimensions::kNone},
    {"deepseek-v3", 61, 7168, 128, 0, 0, true, 1536, 3, 18432, 256, 8, 1, 2048, 129280, Dimensions::kBias},
    {"olmoe-1b-7b", 16, 2048, 16, 16, 128, false, 0, 0, 0, 64, 8, 0, 1024, 50304, Dimensions::kFullNorm},
    {"qwen3-30b-a3b", 48, 2048, 32, 4, 128, false, 0, 0, 0, 128, 8, 0, 768, 151936, Dimensions::kHeadNorm},
    {"qwen3-235b-a22b", 94, 4096, 64, 4, 128, false, 0, 0, 0, 128, 8, 0, 1536, 151936, Dimensions::kHeadNorm},
    {"gpt-oss-20b", 24, 2880, 64, 8, 64, false, 0, 0, 0, 32, 4, 0, 2880, 201088, Dimensions::kGptOss},
    {"gpt-oss-120b", 36, 2880, 64, 8, 64, false, 0, 0, 0, 128, 4, 0, 2880, 201088, Dimensions::kGptOss},
    {"kimi-k2", 61, 7168, 64, 0, 0, true, 1536, 1, 18432, 384, 8, 1, 2048, 163840, Dimensions::kBias}};

Int attention(const Dimensions& m) {
  const Int D = m.width, H = m.heads;
  if (m.latent) {
    const Int query = m.query_rank > 0 ? D * m.query_rank + m.query_rank + m.query_rank * H * 192 : D * H * 192;
    return query + D * (512 + 64) + 512 + 512 * H * (128 + 128) + H * 128 * D;
  }
  const Int q = H * m.head_dim, kv = m.kv_heads * m.head_dim, maps = D * (q + 2 * kv) + q * D;
  if (m.extras == Dimensions::kHeadNorm) return maps + 2 * m.head_dim;
  if (m.extras == Dimensions::kFullNorm) return maps + q + kv;
  return m.extras == Dimensions::kGptOss ? maps + q + 2 * kv + D + H : maps;
}

// `experts`: how many of them are counted.
Int moe(const Dimensions& m, Int experts) {
  const Int D = m.width, F = m.ffn;
  Int n = m.experts * D + experts * 3 * D * F + 3 * D * F * m.shared;
  if (m.extras == Dimensions::kGptOss) n += m.experts + experts * (2 * F + D);
  if (m.extras == Dimensions::kBias) n += m.experts;
  return n;
}

Int parameters(const Dimensions& m, Int experts) {
  const Int dense = m.dense_layers * 3 * m.width * m.dense_ffn;
  return m.layers * (attention(m) + 2 * m.width) + dense + (m.layers - m.dense_layers) * moe(m, experts) + m.width +
         2 * m.vocab * m.width;
}

ModelConfig model_of(const std::string& preset) { return Parsed({"--preset", preset}).train.model; }

TEST(Presets, ParametersOfThePublishedModels) {
  for (const Dimensions& m : kPublished) {
    SCOPED_TRACE(m.name);
    const ParamCounts n = count_parameters(model_of(m.name));
    EXPECT_EQ(n.total, parameters(m, m.experts));
    EXPECT_EQ(n.active, parameters(m, m.top_k));
    EXPECT_EQ(n.active - n.active_no_embedding, m.vocab * m.width);
  }
}

// What their makers, or others who counted the files, say.
TEST(Presets, PublishedTotals) {
  const std::pair<const char*, Int> totals[] = {{"mixtral-8x7b", 46702792704},     {"mixtral-8x22b", 140620634112},
                                                {"deepseek-moe-16b", 16375728128}, {"deepseek-v2-lite", 15706484224},
                                                {"deepseek-v3", 671026419200},     {"olmoe-1b-7b", 6919161856},
                                                {"qwen3-30b-a3b", 30532122624},    {"gpt-oss-20b", 20914757184}};
  for (const auto& [name, total] : totals) EXPECT_EQ(count_parameters(model_of(name)).total, total) << name;
}

// Embedding and head are the model's; the module has two norms of its inputs, the map of both, a block and its last norm.
TEST(Presets, TheModuleOfDeepSeekV3) {
  const Dimensions& m = kPublished[5];
  const ParamCounts n = count_parameters(model_of(m.name));
  const Int D = m.width, around = 2 * D + 2 * D * D + 2 * D + D;
  EXPECT_EQ(n.mtp, around + attention(m) + moe(m, m.experts));
  EXPECT_EQ(n.mtp_active, around + attention(m) + moe(m, m.top_k));
}

// 10^9 of one token at 4096, causal attention: DeepSeek's own figure, and what Megatron-LM's rates imply.
TEST(Presets, Work) {
  const std::pair<const char*, double> gflops[] = {
      {"mixtral-8x7b", 79.7},     {"mixtral-8x22b", 242.2}, {"deepseek-moe-16b", 17.1}, {"deepseek-v2-lite", 16.4},
      {"deepseek-v2", 155.3},     {"deepseek-v3", 260.65},  {"olmoe-1b-7b", 7.88},      {"qwen3-30b-a3b", 23.08},
      {"qwen3-235b-a22b", 148.3}, {"gpt-oss-20b", 22.9},    {"gpt-oss-120b", 32.7},     {"kimi-k2", 205.5}};
  for (const auto& [name, want] : gflops)
    EXPECT_NEAR(flop_per_token(model_of(name), 4096) / 1e9, want, 0.005 * want) << name;
  ModelConfig v3 = model_of("deepseek-v3");
  v3.num_mtp_layers = 0;
  EXPECT_NEAR(flop_per_token(v3, 4096) / 1e9, 250.5, 0.005 * 250.5);
}

TEST(Presets, RecipeOfDeepSeekV3) {
  const TrainOptions t = Parsed({"--preset", "deepseek-v3"}).train;
  const auto tokens_before = [&](std::int64_t steps) { return static_cast<double>(samples_of_steps(t, steps)) * t.seq; };
  const auto step_at = [&](double tokens) { return steps_of_samples(t, static_cast<std::int64_t>(tokens / t.seq)) + 2; };
  const auto rate = [&](double tokens) {
    const std::int64_t step = step_at(tokens);
    return learning_rate(t, step, run_progress(t, step - 1, 0));
  };
  EXPECT_NEAR(tokens_before(t.steps), 14.8e12, 0.001 * 14.8e12);
  EXPECT_NEAR(learning_rate(t, 1000, run_progress(t, 999, 0)), 1.1e-4, 1e-9);
  EXPECT_NEAR(rate(1e12), 2.2e-4, 1e-9);
  EXPECT_NEAR(rate(9.99e12), 2.2e-4, 1e-9);
  EXPECT_NEAR(rate(12.15e12), 1.21e-4, 1e-7) << "half way";
  EXPECT_NEAR(rate(14.5e12), 2.2e-5, 1e-9);
  EXPECT_NEAR(rate(14.7e12), 7.3e-6, 1e-9);
  EXPECT_EQ(batch_after(t, 0), 3072);
  EXPECT_EQ(batch_after(t, step_at(468e9) - 1), 15360 - 768);
  EXPECT_EQ(batch_after(t, step_at(469.1e9) - 1), 15360);
  const auto speed = [&](double tokens) { return t.balance.bias_update_speed.at(run_point(t, step_at(tokens), 0)); };
  EXPECT_EQ(speed(14.2e12), 0.001f);
  EXPECT_EQ(speed(14.31e12), 0);
}

// Each small model has what its family has.
TEST(Presets, SmallOnesHaveTheLayersOfTheirFamilies) {
  const std::pair<const char*, const char*> families[] = {
      {"mixtral-mini", "mixtral-8x7b"},    {"deepseek-moe-mini", "deepseek-moe-16b"},
      {"deepseek-v2-mini", "deepseek-v2"}, {"deepseek-v3-mini", "deepseek-v3"},
      {"olmoe-mini", "olmoe-1b-7b"},       {"qwen3-mini", "qwen3-30b-a3b"},
      {"gpt-oss-mini", "gpt-oss-20b"},     {"kimi-k2-mini", "kimi-k2"}};
  const auto traits = [](const std::string& preset) {
    const TrainOptions t = Parsed({"--preset", preset}).train;
    const ModelConfig& c = t.model;
    const BalanceOptions& b = t.balance;
    return std::vector<int>{c.is_mla(),
                            c.q_lora_rank > 0,
                            c.num_kv_heads < c.num_heads || c.is_mla(),
                            static_cast<int>(c.qk_norm),
                            c.num_dense_layers > 0,
                            c.num_shared_experts,
                            static_cast<int>(c.router_score),
                            c.router_renormalize,
                            c.num_expert_groups > 1,
                            static_cast<int>(c.group_score),
                            c.router_bias,
                            c.rope_interleaved,
                            c.yarn.factor > 1,
                            c.yarn.truncate,
                            c.attention_bias + c.attention_sinks + c.router_logit_bias + c.expert_bias,
                            c.sliding_window > 0,
                            c.swiglu_limit > 0,
                            c.num_mtp_layers,
                            b.aux > 0,
                            b.seq_aux > 0,
                            b.global_aux > 0,
                            b.z > 0,
                            b.bias_update_speed.most() > 0,
                            t.batch_ramp.grows(),
                            static_cast<int>(t.schedule)};
  };
  for (const auto& [small, large] : families) EXPECT_EQ(traits(small), traits(large)) << small;
}

TEST(Presets, NamesAreUniqueAndValuesAreTaken) {
  std::set<std::string> names;
  for (const Preset& p : presets()) {
    EXPECT_TRUE(names.insert(p.name).second) << p.name;
    Parsed parsed({"--preset", p.name, "--vocab-size", "256"});
    EXPECT_NO_THROW(check_config(parsed.train.model)) << p.name;
  }
}

}  // namespace
}  // namespace moe
