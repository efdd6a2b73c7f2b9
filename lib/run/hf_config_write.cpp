// Writing config.json. Not here: which family a model is of (hf_family.cpp), the rotary embedding (hf_rope.cpp).
#include "lib/run/hf_config_write.h"

#include <charconv>

#include "lib/base/text_list.h"

namespace moe {
namespace {

using nlohmann::json;

const char* class_of(HfFamily family) {
  constexpr const char* kClasses[] = {"MixtralForCausalLM",    "Qwen3MoeForCausalLM",   "OlmoeForCausalLM",
                                      "DeepseekForCausalLM",   "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM",
                                      "DeepseekV3ForCausalLM", "GptOssForCausalLM"};
  return kClasses[static_cast<std::size_t>(family)];
}

void write_heads(const ModelConfig& m, HfFamily family, json& config) {
  config["num_key_value_heads"] = m.is_mla() ? m.num_heads : m.num_kv_heads;
  if (!m.is_mla()) {
    if (family != HfFamily::kOlmoe && family != HfFamily::kDeepseek) config["head_dim"] = m.head_dim;
    return;
  }
  config["kv_lora_rank"] = m.kv_lora_rank;
  config["q_lora_rank"] = m.q_lora_rank == 0 ? json() : json(m.q_lora_rank);
  config["qk_nope_head_dim"] = m.qk_nope_head_dim;
  config["qk_rope_head_dim"] = m.qk_rope_head_dim;
  config["v_head_dim"] = m.v_head_dim;
  if (is_deepseek_v3(family)) config["rope_interleave"] = m.rope_interleaved;
}

void write_plain(const ModelConfig& m, HfFamily family, json& config) {
  if (family == HfFamily::kMixtral) {
    config["num_local_experts"] = m.num_experts;
    config["sliding_window"] = nullptr;
  } else {
    config["num_experts"] = m.num_experts;
    config["norm_topk_prob"] = m.router_renormalize;
    config["attention_bias"] = false;
  }
  if (family == HfFamily::kOlmoe) config["clip_qkv"] = nullptr;
  if (family != HfFamily::kQwen3Moe) {
    config["intermediate_size"] = m.expert_ffn;
    return;
  }
  config["moe_intermediate_size"] = m.expert_ffn;
  config["intermediate_size"] = m.num_dense_layers > 0 ? m.dense_ffn : m.expert_ffn;
  config["decoder_sparse_step"] = 1;
  config["mlp_only_layers"] = json::array();
  for (int i = 0; i < m.num_dense_layers; ++i) config["mlp_only_layers"].push_back(i);
  config["use_sliding_window"] = false;
}

void write_deepseek_router(const ModelConfig& m, HfFamily family, json& config) {
  config["scoring_func"] = is_deepseek_v3(family) ? "sigmoid" : "softmax";
  config["norm_topk_prob"] = m.router_renormalize;
  if (family == HfFamily::kDeepseek) return;
  const bool limited = m.num_groups_kept < m.num_expert_groups;
  config["routed_scaling_factor"] = hf_number(m.router_scale);
  config["topk_method"] = is_deepseek_v3(family) ? "noaux_tc" : limited ? "group_limited_greedy" : "greedy";
  config["n_group"] = m.num_expert_groups;
  config["topk_group"] = m.num_groups_kept;
}

void write_deepseek(const ModelConfig& m, HfFamily family, json& config) {
  write_deepseek_router(m, family, config);
  config["n_routed_experts"] = m.num_experts;
  config["n_shared_experts"] = m.num_shared_experts == 0 ? json() : json(m.num_shared_experts);
  config["moe_intermediate_size"] = m.expert_ffn;
  config["intermediate_size"] = m.num_dense_layers > 0 ? m.dense_ffn : m.expert_ffn;
  config["first_k_dense_replace"] = m.num_dense_layers;
  config["moe_layer_freq"] = 1;
  config["attention_bias"] = false;
  if (is_deepseek_v3(family)) config["num_nextn_predict_layers"] = m.num_mtp_layers;
}

void write_gpt_oss(const ModelConfig& m, json& config) {
  config["num_local_experts"] = m.num_experts;
  config["experts_per_token"] = m.top_k;
  config["intermediate_size"] = m.expert_ffn;
  config["attention_bias"] = true;
  config["swiglu_limit"] = hf_number(m.swiglu_limit);
  config["sliding_window"] = m.sliding_window;
  const std::vector<std::string> types = split_list(m.layer_types);
  config["layer_types"] = json::array();
  for (int i = 0; i < m.num_layers; ++i)
    config["layer_types"].push_back(types[static_cast<std::size_t>(i) % types.size()] + "_attention");
}

}  // namespace

double hf_number(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double wide = 0;
  std::from_chars(text, end, wide);
  return wide;
}

json hf_config_json(const ModelConfig& m, HfFamily family, const std::string& dtype, const json& carried) {
  json config = carried.is_object() ? carried : json::object();
  config["architectures"] = json::array({class_of(family)});
  config["model_type"] = name_of(family);
  config["torch_dtype"] = dtype;
  config["vocab_size"] = m.vocab_size;
  config["hidden_size"] = m.d_model;
  config["num_hidden_layers"] = m.num_layers;
  config["num_attention_heads"] = m.num_heads;
  config["num_experts_per_tok"] = m.top_k;
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = hf_number(m.norm_eps);
  config["initializer_range"] = hf_number(m.init_std);
  config["tie_word_embeddings"] = m.tied_embeddings;
  write_heads(m, family, config);
  write_hf_rope(m, config);
  if (family == HfFamily::kGptOss)
    write_gpt_oss(m, config);
  else
    family <= HfFamily::kOlmoe ? write_plain(m, family, config) : write_deepseek(m, family, config);
  return config;
}

}  // namespace moe
