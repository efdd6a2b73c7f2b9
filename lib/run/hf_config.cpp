// Reading config.json. Not here: writing it (hf_config_write.cpp).
#include "lib/run/hf_config.h"

#include <algorithm>
#include <array>
#include <set>

#include "lib/base/error.h"
#include "lib/run/hf_config_reader.h"

namespace moe {
namespace {

using nlohmann::json;

// Keys that an export gives back: they do not touch the mathematics of the weights.
constexpr std::array kCarried = {"bos_token_id",
                                 "eos_token_id",
                                 "pad_token_id",
                                 "max_position_embeddings",
                                 "router_aux_loss_coef",
                                 "router_jitter_noise",
                                 "attention_dropout",
                                 "aux_loss_alpha",
                                 "seq_aux",
                                 "auto_map",
                                 "ep_size",
                                 "initial_context_length"};
// Of no meaning here.
constexpr std::array kIgnored = {"architectures",
                                 "transformers_version",
                                 "torch_dtype",
                                 "dtype",
                                 "use_cache",
                                 "output_router_logits",
                                 "output_hidden_states",
                                 "output_attentions",
                                 "return_dict",
                                 "pretraining_tp",
                                 "max_window_layers",
                                 "sep_token_id",
                                 "is_encoder_decoder",
                                 "add_cross_attention",
                                 "tie_encoder_decoder",
                                 "problem_type",
                                 "chunk_size_feed_forward",
                                 "id2label",
                                 "label2id",
                                 "use_bfloat16",
                                 "task_specific_params",
                                 "cross_attention_hidden_size"};
// Keys that ask for what this model does not have, unless they say no.
constexpr std::array kUnsupported = {"clip_qkv", "attention_bias", "qkv_bias", "mlp_bias"};

void check_window(HfConfigReader& r, HfFamily family) {
  const json* window = r.find("sliding_window");
  const json* use = r.find("use_sliding_window");
  const bool active = use ? !says_no(*use) : window && !says_no(*window) && family != HfFamily::kQwen3Moe;
  if (active)
    r.refuse("sliding_window = " + (window ? window->dump() : "default") + " is not supported",
             "this model attends over the whole sequence");
  if (const json* types = r.find("layer_types")) {
    const bool full =
        types->is_array() && std::all_of(types->begin(), types->end(), [](const json& t) { return t == "full_attention"; });
    if (!full) r.refuse("layer_types: expected full_attention in every layer, found another");
  }
}

void check_unsupported(HfConfigReader& r) {
  for (const char* key : kUnsupported)
    if (const json* v = r.find(key); v && !says_no(*v))
      r.refuse(std::string(key) + " = " + v->dump().substr(0, 200) + " is not supported", "the model here does not have it");
}

void check_activation(HfConfigReader& r) {
  if (const json* v = r.find("hidden_act"); !v)
    r.assume("hidden_act = silu (the family's default)");
  else if (*v != "silu")
    r.refuse("hidden_act: expected silu, found " + v->dump());
}

// Which layers of Qwen3-MoE are dense; ours are the first so many.
int dense_layers(HfConfigReader& r, int num_layers) {
  const json *step = r.find("decoder_sparse_step"), *list = r.find("mlp_only_layers");
  const int every = step ? r.whole("decoder_sparse_step", *step) : 1;
  if (every < 1) r.refuse("decoder_sparse_step: expected at least 1, found " + std::to_string(every));
  std::set<int> dense;
  if (list && !list->is_array()) r.refuse("mlp_only_layers: expected a list");
  if (list)
    for (const json& i : *list) dense.insert(r.whole("mlp_only_layers", i));
  for (int i = 0; i < num_layers; ++i)
    if ((i + 1) % every != 0) dense.insert(i);
  std::erase_if(dense, [&](int i) { return i >= num_layers; });
  const int n = static_cast<int>(dense.size());
  if (n > 0 && *dense.rbegin() != n - 1)
    r.refuse("decoder_sparse_step, mlp_only_layers: dense layers behind layers of experts are not supported",
             "the dense layers must be the first ones");
  return n;
}

void read_plain(HfConfigReader& r, HfFamily family, ModelConfig& m) {
  const bool mixtral = family == HfFamily::kMixtral, qwen = family == HfFamily::kQwen3Moe;
  m.num_kv_heads = r.int_or("num_key_value_heads", m.num_heads, "as num_attention_heads");
  m.head_dim = r.int_or("head_dim", m.d_model / m.num_heads, "hidden_size / num_attention_heads");
  m.qk_norm = mixtral ? QkNorm::kNone : qwen ? QkNorm::kHead : QkNorm::kFull;
  read_hf_rope(r, family, m);
  m.norm_eps = qwen ? r.real_or("rms_norm_eps", 1e-6f, "1e-6") : r.real_or("rms_norm_eps", 1e-5f, "1e-5");
  m.router_renormalize = mixtral || r.bool_or("norm_topk_prob", false, "the family's default");
  m.expert_ffn = r.needed_int(qwen ? "moe_intermediate_size" : "intermediate_size");
  if (!qwen) return;
  m.num_dense_layers = dense_layers(r, m.num_layers);
  (void)r.find("intermediate_size");  // of dense layers only
  if (m.num_dense_layers > 0) m.dense_ffn = r.needed_int("intermediate_size");
}

void read_model(HfConfigReader& r, HfFamily family, ModelConfig& m) {
  m.vocab_size = r.needed_int("vocab_size");
  m.num_layers = r.needed_int("num_hidden_layers");
  m.d_model = r.needed_int("hidden_size");
  m.num_heads = r.needed_int("num_attention_heads");
  if (m.num_heads < 1) r.refuse("num_attention_heads: expected at least 1");
  m.num_experts = read_hf_expert_count(r);
  m.top_k = r.needed_int("num_experts_per_tok");
  m.tied_embeddings = r.bool_or("tie_word_embeddings", false, "the family's default");
  if (const json* v = r.find("initializer_range")) m.init_std = r.real("initializer_range", *v);
  check_activation(r);
  if (family == HfFamily::kGptOss) return read_hf_gpt_oss(r, m);
  family <= HfFamily::kOlmoe ? read_plain(r, family, m) : read_hf_deepseek(r, family, m);
  check_window(r, family);
  check_unsupported(r);
}

constexpr std::array kFamilies = {"mixtral",     "qwen3_moe",   "olmoe",   "deepseek",
                                  "deepseek_v2", "deepseek_v3", "kimi_k2", "gpt_oss"};

HfFamily family_of(HfConfigReader& r) {
  const json* type = r.find("model_type");
  std::string expected;
  for (std::size_t f = 0; f < kFamilies.size(); ++f) {
    if (type && *type == kFamilies[f]) return static_cast<HfFamily>(f);
    expected += (f == 0 ? "" : f + 1 == kFamilies.size() ? " or " : ", ") + std::string(kFamilies[f]);
  }
  r.refuse("model_type: expected " + expected + ", found " + (type ? type->dump().substr(0, 80) : "none"));
}

// The keys that the user said to pass over are as if they were not there.
json without_keys(const json& config, const std::vector<std::string>& ignore, HfConfig& out) {
  json left = config;
  for (const std::string& key : ignore) {
    if (!config.is_object() || !config.contains(key))
      throw Error(Exit::kUsage, "--ignore-key: expected a key of config.json, found '" + key + "'");
    out.ignored.push_back(key + " = " + config[key].dump().substr(0, 80) + " (--ignore-key)");
    left.erase(key);
  }
  return left;
}

// Whatever nobody asked for is harmless by name, says no, or is refused.
void check_rest(HfConfigReader& r, const json& config, HfConfig& out) {
  for (const auto& [key, value] : config.items()) {
    if (r.is_known(key) || key.starts_with("_")) continue;
    if (std::find(kIgnored.begin(), kIgnored.end(), key) != kIgnored.end()) continue;
    if (std::find(kCarried.begin(), kCarried.end(), key) != kCarried.end()) {
      out.carried[key] = value;
      if ((key == "attention_dropout" || key == "router_jitter_noise") && value.is_number() && value != 0.0)
        out.ignored.push_back(key + " = " + value.dump() + " (training only)");
    } else if (!says_no(value)) {
      r.refuse("unknown key '" + key.substr(0, 80) + "' = " + value.dump().substr(0, 80),
               "if it does not change what the model computes: --ignore-key " + key.substr(0, 80));
    }
  }
}

}  // namespace

const char* name_of(HfFamily family) { return kFamilies[static_cast<std::size_t>(family)]; }

HfConfig parse_hf_config(const json& config, const std::string& path, const std::vector<std::string>& ignore) {
  HfConfig out;
  out.carried = json::object();
  const json left = without_keys(config, ignore, out);
  HfConfigReader r(left, path, out);
  out.family = family_of(r);
  read_model(r, out.family, out.model);
  out.quantization = read_hf_quantization(r, out.family);
  check_rest(r, left, out);
  try {
    check_config(out.model);
  } catch (const Error& e) {  // speaks of our options
    throw Error(Exit::kBadInput, path + ": " + e.what(), e.hint());
  }
  return out;
}

}  // namespace moe
