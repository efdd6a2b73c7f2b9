// Models of odd shapes and their batches, for the tests of lib/model: drawn from a seed, or with one edge each.
// Not here: judgements.
#pragma once

#include <ostream>
#include <random>
#include <string>
#include <vector>

#include "tests/model_run.h"

namespace moe {

struct ModelCase {
  std::string name;
  ModelConfig config;
  BalanceOptions balance;
  ReferenceInput input;
  ReferenceParams params;
  double mtp_weight = 0.7;  // where the model has modules of multi-token prediction
};

inline void PrintTo(const ModelCase& m, std::ostream* out) { *out << m.name; }  // for GoogleTest

inline ReferenceInput random_batch(const ModelConfig& c, int num_seqs, int seq_len, bool documents, std::uint64_t seed) {
  std::mt19937_64 bits(seed * 31 + 7);
  ReferenceInput in;
  in.num_seqs = num_seqs, in.seq_len = seq_len;
  const auto token = [&] { return static_cast<std::int32_t>(bits() % static_cast<std::uint64_t>(c.vocab_size)); };
  for (int t = 0; t < num_seqs * seq_len; ++t) {
    in.tokens.push_back(token());
    in.targets.push_back(t % 6 == 4 ? -1 : token());
    if (!documents) continue;
    const bool opens = t % seq_len == 0 || bits() % 3 == 0;
    in.doc_start.push_back(opens ? t % seq_len : in.doc_start.back());
  }
  if (c.router_bias)
    for (int i = c.num_dense_layers; i < (c.num_moe_layers() > 0 ? c.num_blocks() : 0); ++i)
      for (int e = 0; e < c.num_experts; ++e)
        in.router_bias["layers." + std::to_string(i) + ".router.bias"].push_back(
            static_cast<float>(static_cast<double>(bits() % 101) / 500 - 0.1));
  return in;
}

// Weights that float holds exactly, large enough that every operation matters.
inline ReferenceParams float_params(const ModelConfig& c, std::uint64_t seed, double std = 0.4) {
  ReferenceParams params = reference_random_params(c, seed, std);
  for (auto& [name, values] : params)
    for (double& v : values) v = static_cast<float>(v);
  return params;
}

inline ModelCase make_case(const std::string& name, const ModelConfig& c, const BalanceOptions& b, int num_seqs, int seq_len,
                           bool documents = false, std::uint64_t seed = 1) {
  return {name, c, b, random_batch(c, num_seqs, seq_len, documents, seed), float_params(c, seed)};
}

inline ModelConfig small_model() {
  ModelConfig c;
  c.vocab_size = 29, c.num_layers = 2, c.d_model = 13;
  c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 6;
  c.num_experts = 5, c.top_k = 2, c.expert_ffn = 11;
  return c;
}

inline ModelCase random_case(std::uint64_t seed) {
  std::mt19937_64 bits(seed * 977 + 3);
  const auto pick = [&](std::vector<int> from) { return from[bits() % from.size()]; };
  ModelConfig c;
  c.vocab_size = pick({3, 17, 64, 101}), c.num_layers = pick({1, 2, 3}), c.d_model = pick({7, 13, 16, 31});
  c.num_kv_heads = pick({1, 2, 3}), c.num_heads = c.num_kv_heads * pick({1, 2, 3}), c.head_dim = pick({2, 6, 8, 10});
  c.qk_norm = static_cast<QkNorm>(pick({0, 1, 2})), c.rope_theta = 100;
  c.num_dense_layers = pick({0, 1, c.num_layers}), c.dense_ffn = pick({5, 17});
  c.num_expert_groups = pick({1, 1, 2, 3}), c.num_experts = c.num_expert_groups * pick({2, 3, 5});
  c.num_groups_kept = pick({c.num_expert_groups, (c.num_expert_groups + 1) / 2});
  c.top_k =
      1 + static_cast<int>(bits() % static_cast<std::uint64_t>(c.num_groups_kept * (c.num_experts / c.num_expert_groups)));
  c.group_score = static_cast<GroupScore>(pick({0, 1})), c.router_score = static_cast<Score>(pick({0, 1}));
  c.router_renormalize = pick({0, 1}), c.router_scale = pick({1, 2}), c.router_bias = pick({0, 1});
  c.expert_ffn = pick({1, 7, 19}), c.num_shared_experts = pick({0, 1, 2}), c.tied_embeddings = pick({0, 1});
  const BalanceOptions b{.aux = 0.3f * static_cast<float>(pick({0, 1})),
                         .seq_aux = 0.2f * static_cast<float>(pick({0, 1})),
                         .global_aux = 0.4f * static_cast<float>(pick({0, 1})),
                         .z = 0.05f * static_cast<float>(pick({0, 1}))};
  return make_case("random" + std::to_string(seed), c, b, pick({1, 2, 3}), pick({1, 5, 19}), pick({0, 1}), seed);
}

// Latent attention in a random model: with and without compressed queries, both conventions of pairs, YaRN.
inline ModelCase random_mla_case(std::uint64_t seed) {
  ModelCase m = random_case(seed);
  ModelConfig& c = m.config;
  std::mt19937_64 bits(seed * 499 + 11);
  const auto pick = [&](std::vector<int> from) { return from[bits() % from.size()]; };
  c.attention = AttentionKind::kMla, c.qk_norm = QkNorm::kNone;
  c.q_lora_rank = seed % 2 == 0 ? pick({1, 5, 12}) : 0, c.kv_lora_rank = pick({3, 8, 17});
  c.qk_nope_head_dim = pick({1, 4, 7}), c.qk_rope_head_dim = pick({2, 4, 10}), c.v_head_dim = pick({1, 6, 9});
  c.rope_interleaved = pick({0, 1});
  if (pick({0, 1}) == 1)
    c.yarn = {.factor = 4, .original_length = 8, .beta_fast = 2, .beta_slow = 0.2f, .mscale = 0.7f, .mscale_all_dim = 0.5f};
  return make_case("mla" + std::to_string(seed), c, m.balance, m.input.num_seqs, m.input.seq_len, !m.input.doc_start.empty(),
                   seed);
}

// The proportions of DeepSeek-V3, everything small.
inline ModelConfig mini_deepseek_v3() {
  ModelConfig c;
  c.attention = AttentionKind::kMla, c.rope_interleaved = true;
  c.vocab_size = 53, c.num_layers = 3, c.d_model = 24, c.num_heads = 4, c.q_lora_rank = 12, c.kv_lora_rank = 8;
  c.qk_nope_head_dim = 8, c.qk_rope_head_dim = 4, c.v_head_dim = 8;
  c.num_dense_layers = 1, c.dense_ffn = 40, c.num_experts = 8, c.top_k = 2, c.expert_ffn = 12, c.num_shared_experts = 1;
  c.num_expert_groups = 4, c.num_groups_kept = 2;
  c.router_score = Score::kSigmoid, c.router_scale = 2.5f, c.router_bias = true;
  return c;
}

// gpt-oss' layers in a random model, each extra with and without the others; odd limits and windows.
inline ModelCase random_gpt_oss_case(std::uint64_t seed) {
  ModelCase m = random_case(seed);
  ModelConfig& c = m.config;
  std::mt19937_64 bits(seed * 761 + 5);
  const auto pick = [&](std::vector<int> from) { return from[bits() % from.size()]; };
  c.attention_bias = pick({0, 1}), c.attention_sinks = pick({0, 1, 1});
  c.router_logit_bias = pick({0, 1}), c.expert_bias = pick({0, 1, 1});
  c.sliding_window = pick({0, 1, 3, 7, 100}), c.swiglu_limit = 0.5f * static_cast<float>(pick({0, 1, 3, 14}));
  c.layer_types = pick({0, 1}) == 1 ? "sliding,full" : "full,sliding,sliding";
  return make_case("gpt_oss" + std::to_string(seed), c, m.balance, m.input.num_seqs, m.input.seq_len,
                   !m.input.doc_start.empty(), seed);
}

// The proportions of gpt-oss, everything small.
inline ModelConfig mini_gpt_oss() {
  ModelConfig c;
  c.vocab_size = 53, c.num_layers = 4, c.d_model = 24, c.num_heads = 8, c.num_kv_heads = 2, c.head_dim = 6;
  c.num_experts = 8, c.top_k = 3, c.expert_ffn = 20, c.rope_theta = 1000;
  c.attention_bias = c.attention_sinks = c.router_logit_bias = c.expert_bias = true;
  c.sliding_window = 5, c.layer_types = "sliding,full", c.swiglu_limit = 1.5f;
  c.yarn = {.factor = 8, .original_length = 16, .truncate = false};
  return c;
}

// Modules of multi-token prediction behind a random model.
inline ModelCase random_mtp_case(std::uint64_t seed) {
  ModelCase m = seed % 2 == 0 ? random_case(seed) : random_mla_case(seed);
  m.config.num_mtp_layers = 1 + static_cast<int>(seed % 3);
  return make_case("mtp" + std::to_string(seed), m.config, m.balance, m.input.num_seqs, m.input.seq_len,
                   !m.input.doc_start.empty(), seed);
}

inline std::vector<ModelCase> model_cases() {
  std::vector<ModelCase> list;
  for (std::uint64_t seed = 1; seed <= 24; ++seed) list.push_back(random_case(seed));
  for (std::uint64_t seed = 31; seed <= 42; ++seed) list.push_back(random_mla_case(seed));
  for (std::uint64_t seed = 51; seed <= 62; ++seed) list.push_back(random_mtp_case(seed));
  list.push_back(make_case("mini_deepseek_v3", mini_deepseek_v3(), {.seq_aux = 0.1f}, 2, 21, true));
  list.back().params = float_params(mini_deepseek_v3(), 1, 0.25);
  for (std::uint64_t seed = 51; seed <= 62; ++seed) list.push_back(random_gpt_oss_case(seed));
  list.push_back(make_case("mini_gpt_oss", mini_gpt_oss(), {.aux = 0.1f}, 2, 21, true));
  list.back().params = float_params(mini_gpt_oss(), 1, 0.25);
  ModelConfig c = small_model();
  c.rope_interleaved = true, c.yarn = {.factor = 8, .original_length = 16, .truncate = false};
  list.push_back(make_case("gqa_interleaved_yarn", c, {}, 2, 19));
  c = small_model();
  list.push_back(
      make_case("all_losses_documents", c, {.aux = 0.3f, .seq_aux = 0.2f, .global_aux = 0.4f, .z = 0.05f}, 3, 7, true));
  c.top_k = c.num_experts;
  list.push_back(make_case("every_expert_chosen", c, {.aux = 0.3f}, 2, 9));
  c.num_experts = c.top_k = 1;
  list.push_back(make_case("one_expert", c, {.aux = 0.3f, .z = 0.1f}, 2, 9));
  c = small_model();
  list.push_back(make_case("one_token", c, {.seq_aux = 0.3f}, 1, 1));
  c.num_experts = 61;  // most stay empty
  list.push_back(make_case("empty_experts", c, {}, 1, 7));
  c = small_model();
  c.num_layers = 3, c.num_dense_layers = 1, c.dense_ffn = 23, c.num_shared_experts = 2, c.tied_embeddings = true;
  c.head_dim = 10, c.d_model = 7, c.num_kv_heads = 1;
  list.push_back(make_case("dense_shared_tied", c, {.global_aux = 0.4f}, 1, 40));
  c = small_model();
  c.d_model = 64, c.num_heads = c.num_kv_heads = 4, c.head_dim = 16, c.expert_ffn = 48, c.vocab_size = 97;
  list.push_back(make_case("long_sequence", c, {.aux = 0.01f}, 2, 131));
  list.back().params = float_params(c, 1, 0.15);  // at 0.4 this width turns the last bit of a logit into its fifth digit
  return list;
}

}  // namespace moe
