// config.json of published models, in the keys that they have. Not here: judgements (hf_config_test.cpp).
#pragma once

#include <nlohmann/json.hpp>

namespace moe {

using nlohmann::json;

inline json mixtral() {
  return {
      {"model_type", "mixtral"},      {"vocab_size", 32000},       {"hidden_size", 4096},        {"num_hidden_layers", 32},
      {"num_attention_heads", 32},    {"num_key_value_heads", 8},  {"intermediate_size", 14336}, {"num_local_experts", 8},
      {"num_experts_per_tok", 2},     {"rms_norm_eps", 1e-5},      {"rope_theta", 1e6},          {"hidden_act", "silu"},
      {"tie_word_embeddings", false}, {"sliding_window", nullptr}, {"bos_token_id", 1},          {"_name_or_path", "x"}};
}
inline json qwen() {
  return {{"model_type", "qwen3_moe"},
          {"vocab_size", 151936},
          {"hidden_size", 2048},
          {"num_hidden_layers", 48},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 4},
          {"head_dim", 128},
          {"moe_intermediate_size", 768},
          {"intermediate_size", 6144},
          {"num_experts", 128},
          {"num_experts_per_tok", 8},
          {"norm_topk_prob", true},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 1e6},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"decoder_sparse_step", 1},
          {"mlp_only_layers", json::array()},
          {"use_sliding_window", false},
          {"sliding_window", nullptr},
          {"max_window_layers", 48},
          {"attention_bias", false},
          {"rope_scaling", nullptr},
          {"router_aux_loss_coef", 0.001},
          {"output_router_logits", false},
          {"torch_dtype", "bfloat16"}};
}
inline json olmoe() {
  return {
      {"model_type", "olmoe"},     {"vocab_size", 50304},          {"hidden_size", 2048},       {"num_hidden_layers", 16},
      {"num_attention_heads", 16}, {"num_key_value_heads", 16},    {"intermediate_size", 1024}, {"num_experts", 64},
      {"num_experts_per_tok", 8},  {"norm_topk_prob", false},      {"rms_norm_eps", 1e-5},      {"rope_theta", 10000.0},
      {"hidden_act", "silu"},      {"tie_word_embeddings", false}, {"clip_qkv", nullptr},       {"attention_bias", false},
      {"rope_scaling", nullptr},   {"attention_dropout", 0.0}};
}
// As published beside the weights.
inline json deepseek_v3() {
  return {{"model_type", "deepseek_v3"},
          {"vocab_size", 129280},
          {"hidden_size", 7168},
          {"num_hidden_layers", 61},
          {"num_attention_heads", 128},
          {"num_key_value_heads", 128},
          {"q_lora_rank", 1536},
          {"kv_lora_rank", 512},
          {"qk_nope_head_dim", 128},
          {"qk_rope_head_dim", 64},
          {"v_head_dim", 128},
          {"intermediate_size", 18432},
          {"moe_intermediate_size", 2048},
          {"first_k_dense_replace", 3},
          {"moe_layer_freq", 1},
          {"n_routed_experts", 256},
          {"n_shared_experts", 1},
          {"num_experts_per_tok", 8},
          {"n_group", 8},
          {"topk_group", 4},
          {"topk_method", "noaux_tc"},
          {"scoring_func", "sigmoid"},
          {"norm_topk_prob", true},
          {"routed_scaling_factor", 2.5},
          {"num_nextn_predict_layers", 1},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 10000},
          {"rope_scaling",
           {{"type", "yarn"},
            {"factor", 40},
            {"original_max_position_embeddings", 4096},
            {"beta_fast", 32},
            {"beta_slow", 1},
            {"mscale", 1.0},
            {"mscale_all_dim", 1.0}}},
          {"max_position_embeddings", 163840},
          {"hidden_act", "silu"},
          {"attention_bias", false},
          {"attention_dropout", 0.0},
          {"tie_word_embeddings", false},
          {"initializer_range", 0.02},
          {"aux_loss_alpha", 0.001},
          {"seq_aux", true},
          {"ep_size", 1},
          {"auto_map", {{"AutoConfig", "configuration_deepseek.DeepseekV3Config"}}},
          {"bos_token_id", 0},
          {"eos_token_id", 1},
          {"pretraining_tp", 1},
          {"use_cache", true},
          {"quantization_config",
           {{"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}, {"weight_block_size", {128, 128}}}},
          {"torch_dtype", "bfloat16"}};
}
inline json kimi_k2() {
  json c = deepseek_v3();
  c.update({{"model_type", "kimi_k2"},
            {"vocab_size", 163840},
            {"num_attention_heads", 64},
            {"num_key_value_heads", 64},
            {"first_k_dense_replace", 1},
            {"n_routed_experts", 384},
            {"n_group", 1},
            {"topk_group", 1},
            {"routed_scaling_factor", 2.827},
            {"num_nextn_predict_layers", 0},
            {"rope_theta", 50000.0},
            {"max_position_embeddings", 131072}});
  c["rope_scaling"].update({{"factor", 32.0}, {"beta_fast", 1.0}});
  return c;
}
inline json deepseek_v2() {
  json c = deepseek_v3();
  c.update({{"model_type", "deepseek_v2"},
            {"vocab_size", 102400},
            {"hidden_size", 5120},
            {"num_hidden_layers", 60},
            {"intermediate_size", 12288},
            {"moe_intermediate_size", 1536},
            {"first_k_dense_replace", 1},
            {"n_routed_experts", 160},
            {"n_shared_experts", 2},
            {"num_experts_per_tok", 6},
            {"topk_group", 3},
            {"topk_method", "group_limited_greedy"},
            {"scoring_func", "softmax"},
            {"norm_topk_prob", false},
            {"routed_scaling_factor", 16.0}});
  c["rope_scaling"].update({{"mscale", 0.707}, {"mscale_all_dim", 0.707}});
  c.erase("num_nextn_predict_layers"), c.erase("quantization_config");
  return c;
}
inline json deepseek_v2_lite() {
  json c = deepseek_v2();
  c.update({{"hidden_size", 2048},
            {"num_hidden_layers", 27},
            {"num_attention_heads", 16},
            {"num_key_value_heads", 16},
            {"q_lora_rank", nullptr},
            {"intermediate_size", 10944},
            {"moe_intermediate_size", 1408},
            {"n_routed_experts", 64},
            {"n_group", 1},
            {"topk_group", 1},
            {"topk_method", "greedy"},
            {"routed_scaling_factor", 1.0}});
  return c;
}
inline json deepseek_moe() {
  json c = deepseek_v2_lite();
  c["model_type"] = "deepseek", c["num_hidden_layers"] = 28, c["rope_scaling"] = nullptr;
  c["max_position_embeddings"] = 4096;
  for (const char* key : {"q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "n_group",
                          "topk_group", "topk_method", "routed_scaling_factor"})
    c.erase(key);
  return c;
}
inline json gpt_oss() {
  json types = json::array();
  for (int i = 0; i < 24; ++i) types.push_back(i % 2 == 0 ? "sliding_attention" : "full_attention");
  return {{"model_type", "gpt_oss"},
          {"vocab_size", 201088},
          {"hidden_size", 2880},
          {"intermediate_size", 2880},
          {"num_hidden_layers", 24},
          {"num_attention_heads", 64},
          {"num_key_value_heads", 8},
          {"head_dim", 64},
          {"num_local_experts", 32},
          {"num_experts_per_tok", 4},
          {"experts_per_token", 4},
          {"attention_bias", true},
          {"attention_dropout", 0.0},
          {"sliding_window", 128},
          {"layer_types", types},
          {"swiglu_limit", 7.0},
          {"rms_norm_eps", 1e-5},
          {"rope_theta", 150000},
          {"rope_scaling",
           {{"beta_fast", 32.0},
            {"beta_slow", 1.0},
            {"factor", 32.0},
            {"original_max_position_embeddings", 4096},
            {"rope_type", "yarn"},
            {"truncate", false}}},
          {"max_position_embeddings", 131072},
          {"initial_context_length", 4096},
          {"initializer_range", 0.02},
          {"hidden_act", "silu"},
          {"output_router_logits", false},
          {"router_aux_loss_coef", 0.9},
          {"tie_word_embeddings", false},
          {"eos_token_id", 200002},
          {"pad_token_id", 199999},
          {"quantization_config", {{"modules_to_not_convert", {"model.layers.*.self_attn"}}, {"quant_method", "mxfp4"}}}};
}

}  // namespace moe
