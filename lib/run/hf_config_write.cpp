#include <charconv>

#include "lib/base/error.h"
#include "lib/run/hf_config.h"

namespace moe {
namespace {

using nlohmann::json;

// The double that prints as the float does: 1e-6, not 9.999999974752427e-07.
double shortest(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  double wide = 0;
  std::from_chars(text, end, wide);
  return wide;
}

const char* class_of(HfFamily family) {
  if (family == HfFamily::kMixtral) return "MixtralForCausalLM";
  return family == HfFamily::kQwen3Moe ? "Qwen3MoeForCausalLM" : "OlmoeForCausalLM";
}

void write_family(const ModelConfig& m, HfFamily family, json& config) {
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

}  // namespace

HfFamily hf_family_of(const ModelConfig& m, const std::string& path) {
  const auto need = [&](bool ok, const std::string& what) {
    if (!ok)
      throw Error(Exit::kBadInput, path + ": expected a model that Mixtral, Qwen3-MoE or OLMoE can be, found " + what,
                  "no model class of Hugging Face that is known here computes it");
  };
  need(!m.is_mla(), "--attention mla");
  need(!m.rope_interleaved, "--rope-interleaved");
  need(m.yarn.factor == 1, "--rope-factor " + std::to_string(m.yarn.factor));
  need(m.router_score == Score::kSoftmax, "--router-score sigmoid");
  need(!m.router_bias, "--router-bias");
  need(m.router_scale == 1, "--router-scale " + std::to_string(m.router_scale));
  need(m.num_groups_kept == m.num_expert_groups, "--expert-groups with --groups-kept");
  need(m.num_shared_experts == 0, "--shared-experts");
  need(m.max_nodes_per_token == 0, "--max-nodes-per-token");
  if (m.qk_norm == QkNorm::kHead) return HfFamily::kQwen3Moe;
  need(m.num_dense_layers == 0, "--dense-layers without --qk-norm head (only Qwen3-MoE has dense layers)");
  if (m.qk_norm == QkNorm::kFull) {
    need(m.head_dim * m.num_heads == m.d_model, "--qk-norm full with another --head-dim than --d-model / --heads");
    return HfFamily::kOlmoe;
  }
  need(m.router_renormalize, "--no-router-renormalize without --qk-norm (Mixtral always renormalises)");
  return HfFamily::kMixtral;
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
  config["num_key_value_heads"] = m.num_kv_heads;
  if (family != HfFamily::kOlmoe) config["head_dim"] = m.head_dim;
  config["num_experts_per_tok"] = m.top_k;
  config["hidden_act"] = "silu";
  config["rms_norm_eps"] = shortest(m.norm_eps);
  config["rope_theta"] = shortest(m.rope_theta);
  config["initializer_range"] = shortest(m.init_std);
  config["tie_word_embeddings"] = m.tied_embeddings;
  write_family(m, family, config);
  return config;
}

}  // namespace moe
