// Keys of DeepSeek's models, Kimi-K2 and gpt-oss in config.json, and quantization_config.
// Source: configuration_deepseek.py beside the weights of DeepSeek-MoE, V2 and V3, and deepseek_v2, deepseek_v3, gpt_oss of
// transformers. Not here: the other families (hf_config.cpp).
#include "lib/base/error.h"
#include "lib/run/hf_config_reader.h"

namespace moe {
namespace {

using nlohmann::json;

std::string text_of(HfConfigReader& r, const std::string& key, const std::string& otherwise) {
  const json* v = r.find(key);
  if (v && !v->is_string()) r.refuse(key + ": expected a text");
  if (v) return v->get<std::string>();
  r.assume(key + " = " + otherwise + " (the family's default)");
  return otherwise;
}

void read_latent_attention(HfConfigReader& r, HfFamily family, ModelConfig& m) {
  m.attention = AttentionKind::kMla;
  m.kv_lora_rank = r.needed_int("kv_lora_rank");
  if (!r.has("q_lora_rank"))
    r.refuse("expected the key 'q_lora_rank' (null for queries that are not compressed), found none");
  const json* q = r.find("q_lora_rank");
  m.q_lora_rank = q ? r.whole("q_lora_rank", *q) : 0;
  m.qk_nope_head_dim = r.needed_int("qk_nope_head_dim");
  m.qk_rope_head_dim = r.needed_int("qk_rope_head_dim");
  m.v_head_dim = r.needed_int("v_head_dim");
  r.expect("num_key_value_heads", m.num_heads);
  r.expect("head_dim", m.qk_rope_head_dim);  // what transformers 5 calls so
  r.expect("qk_head_dim", m.qk_dim());
  m.rope_interleaved = !is_deepseek_v3(family) || r.bool_or("rope_interleave", true, "the family's default");
}

void read_heads(HfConfigReader& r, ModelConfig& m) {
  m.num_kv_heads = r.int_or("num_key_value_heads", m.num_heads, "as num_attention_heads");
  m.head_dim = r.int_or("head_dim", m.d_model / m.num_heads, "hidden_size / num_attention_heads");
}

// Groups as the method uses them: all are as one without a limit.
void read_groups(HfConfigReader& r, const std::string& method, ModelConfig& m) {
  const json *count = r.find("n_group"), *kept = r.find("topk_group");
  const int groups = count ? r.whole("n_group", *count) : 1, limit = kept ? r.whole("topk_group", *kept) : 1;
  if (method == "greedy") {
    if (groups > 1) r.ignore("n_group = " + std::to_string(groups) + " (topk_method greedy knows no groups)");
    return;
  }
  m.num_expert_groups = groups, m.num_groups_kept = limit;
  m.group_score = method == "noaux_tc" ? GroupScore::kTop2Sum : GroupScore::kMax;
}

void read_router(HfConfigReader& r, HfFamily family, ModelConfig& m) {
  const bool v3 = is_deepseek_v3(family), v1 = family == HfFamily::kDeepseek;
  const std::string score = text_of(r, "scoring_func", v3 ? "sigmoid" : "softmax");
  if (score != (v3 ? "sigmoid" : "softmax"))
    r.refuse("scoring_func: expected " + std::string(v3 ? "sigmoid" : "softmax") + ", found " + score.substr(0, 40));
  m.router_score = v3 ? Score::kSigmoid : Score::kSoftmax;
  m.router_bias = v3;
  m.router_renormalize = r.bool_or("norm_topk_prob", v3, "the family's default");
  if (family == HfFamily::kDeepseekV2 && m.router_renormalize)
    r.refuse("norm_topk_prob = true is not supported", "implementations of deepseek_v2 differ in what it means");
  if (v1) return;
  m.router_scale = r.real_or("routed_scaling_factor", 1, "1");
  const std::string method = text_of(r, "topk_method", v3 ? "noaux_tc" : "greedy");
  if (v3 ? method != "noaux_tc" : method != "greedy" && method != "group_limited_greedy")
    r.refuse("topk_method: expected " + std::string(v3 ? "noaux_tc" : "greedy or group_limited_greedy") + ", found " +
             method.substr(0, 40));
  read_groups(r, method, m);
}

void read_experts(HfConfigReader& r, ModelConfig& m) {
  m.expert_ffn = r.needed_int("moe_intermediate_size");
  const json* shared = r.find("n_shared_experts");
  m.num_shared_experts = shared ? r.whole("n_shared_experts", *shared) : 0;
  m.num_dense_layers = r.needed_int("first_k_dense_replace");
  (void)r.find("intermediate_size");  // of dense layers only
  if (m.num_dense_layers > 0) m.dense_ffn = r.needed_int("intermediate_size");
  r.expect("moe_layer_freq", 1);
}

// gpt-oss: names of layer types, as the shortest list that repeats.
std::string layer_types_of(HfConfigReader& r, int num_layers) {
  const json* types = r.find("layer_types");
  if (!types) {
    r.assume("layer_types = sliding_attention, full_attention, ... (the family's default)");
    return "sliding,full";
  }
  if (!types->is_array() || types->size() != static_cast<std::size_t>(num_layers))
    r.refuse("layer_types: expected one for each of " + std::to_string(num_layers) + " layers");
  for (const json& t : *types)
    if (t != "sliding_attention" && t != "full_attention")
      r.refuse("layer_types: expected sliding_attention or full_attention, found " + t.dump().substr(0, 40));
  std::size_t period = 1;
  const auto repeats = [&] {
    for (std::size_t i = period; i < types->size(); ++i)
      if ((*types)[i] != (*types)[i - period]) return false;
    return true;
  };
  while (!repeats()) ++period;
  std::string list;
  for (std::size_t i = 0; i < period; ++i)
    list += (i == 0 ? "" : ",") + std::string((*types)[i] == "full_attention" ? "full" : "sliding");
  return list;
}

void check_quantization_keys(HfConfigReader& r, const json& q, std::initializer_list<const char*> known) {
  for (const auto& [key, v] : q.items()) {
    bool fine = says_no(v) || key == "quant_method" || key == "modules_to_not_convert";  // the files say which are not
    for (const char* k : known) fine = fine || key == k;
    if (!fine) r.refuse("quantization_config." + key + " = " + v.dump().substr(0, 80) + " is not supported");
  }
}

}  // namespace

void read_hf_deepseek(HfConfigReader& r, HfFamily family, ModelConfig& m) {
  family == HfFamily::kDeepseek ? read_heads(r, m) : read_latent_attention(r, family, m);
  read_hf_rope(r, family, m);
  if (family == HfFamily::kDeepseek && m.yarn.factor != 1)
    r.refuse("rope_scaling: expected none for deepseek, found yarn", "its model code does not have it");
  m.norm_eps = r.real_or("rms_norm_eps", 1e-6f, "1e-6");
  read_router(r, family, m);
  read_experts(r, m);
  if (!is_deepseek_v3(family)) return;
  const json* modules = r.find("num_nextn_predict_layers");
  m.num_mtp_layers = modules ? r.whole("num_nextn_predict_layers", *modules) : 0;
  if (m.num_mtp_layers > 0 && m.num_dense_layers >= m.num_layers)
    r.refuse("num_nextn_predict_layers: expected 0 where all layers are dense, found " + std::to_string(m.num_mtp_layers));
}

void read_hf_gpt_oss(HfConfigReader& r, ModelConfig& m) {
  m.num_kv_heads = r.int_or("num_key_value_heads", m.num_heads, "as num_attention_heads");
  m.head_dim = r.int_or("head_dim", 64, "the family's default");
  read_hf_rope(r, HfFamily::kGptOss, m);
  m.norm_eps = r.real_or("rms_norm_eps", 1e-5f, "1e-5");
  m.expert_ffn = r.needed_int("intermediate_size");
  r.expect("experts_per_token", m.top_k);
  r.expect("attention_bias", true);
  m.attention_bias = m.attention_sinks = m.router_logit_bias = m.expert_bias = true;
  m.swiglu_limit = r.real_or("swiglu_limit", 7, "7");
  m.sliding_window = r.int_or("sliding_window", 128, "the family's default");
  m.layer_types = layer_types_of(r, m.num_layers);
}

HfQuantization read_hf_quantization(HfConfigReader& r, HfFamily family) {
  using Kind = HfQuantization::Kind;
  const json* q = r.find("quantization_config");
  if (!q || says_no(*q)) return {};
  if (!q->is_object()) r.refuse("quantization_config: expected a JSON object");
  const json method = q->value("quant_method", json());
  if (method == "mxfp4" && family == HfFamily::kGptOss) {
    check_quantization_keys(r, *q, {});
    return {.kind = Kind::kMxfp4};
  }
  if (method != "fp8" || family == HfFamily::kGptOss)
    r.refuse("quantization_config.quant_method: expected " + std::string(family == HfFamily::kGptOss ? "mxfp4" : "fp8") +
                 ", found " + method.dump().substr(0, 40),
             "other quantised weights are not read: convert the model to BF16 first");
  // activation_scheme and scale_fmt say how inference rounds activations and how scales were made.
  check_quantization_keys(r, *q, {"fmt", "weight_block_size", "activation_scheme", "scale_fmt"});
  if (q->contains("fmt") && q->at("fmt") != "e4m3")
    r.refuse("quantization_config.fmt: expected e4m3, found " + q->at("fmt").dump().substr(0, 40));
  const json block = q->value("weight_block_size", json());
  if (!block.is_array() || block.size() != 2)
    r.refuse("quantization_config.weight_block_size: expected two numbers, found " + block.dump().substr(0, 40));
  const int rows = r.whole("weight_block_size", block[0]), cols = r.whole("weight_block_size", block[1]);
  if (rows < 1 || cols < 1) r.refuse("quantization_config.weight_block_size: expected at least 1, found " + block.dump());
  return {.kind = Kind::kFp8, .block_rows = rows, .block_cols = cols};
}

}  // namespace moe
