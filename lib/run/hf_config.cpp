// Reading config.json. Not here: writing it (hf_config_write.cpp).
#include "lib/run/hf_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include "lib/base/error.h"

namespace moe {
namespace {

using nlohmann::json;

// Keys that an export gives back: they do not touch the mathematics of the weights.
constexpr std::array kCarried = {
    "bos_token_id",         "eos_token_id",        "pad_token_id",     "max_position_embeddings",
    "router_aux_loss_coef", "router_jitter_noise", "attention_dropout"};
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
constexpr std::array kUnsupported = {"clip_qkv", "attention_bias", "rope_scaling", "quantization_config",
                                     "qkv_bias", "mlp_bias"};

bool says_no(const json& v) {
  return v.is_null() || v == false || ((v.is_array() || v.is_object() || v.is_string()) && v.empty());
}

// Typed access that remembers which keys were asked for, and what was assumed where there was none.
class Reader {
 public:
  Reader(const json& config, std::string path, HfConfig& out) : config_(config), path_(std::move(path)), out_(out) {
    if (!config.is_object()) refuse("expected a JSON object");
  }
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = "") const {
    throw Error(Exit::kBadInput, path_ + ": " + what, hint);
  }
  // nullptr if the key is not there or null.
  const json* find(const std::string& key) {
    known_.insert(key);
    const auto it = config_.find(key);
    return it == config_.end() || it->is_null() ? nullptr : &*it;
  }
  bool is_known(const std::string& key) const { return known_.contains(key); }
  void assume(const std::string& what) { out_.assumed.push_back(what); }

  int whole(const std::string& key, const json& v) const {
    if (!v.is_number_integer() || v < 0 || v > (1 << 30)) refuse(key + ": expected a whole number from 0 to 2^30");
    return v.get<int>();
  }
  int needed_int(const std::string& key) {
    const json* v = find(key);
    if (!v) refuse("expected the key '" + key + "', found none");
    return whole(key, *v);
  }
  int int_or(const std::string& key, int value, const std::string& why) {
    if (const json* v = find(key)) return whole(key, *v);
    assume(key + " = " + std::to_string(value) + " (" + why + ")");
    return value;
  }
  bool bool_or(const std::string& key, bool value, const std::string& why) {
    const json* v = find(key);
    if (v && !v->is_boolean()) refuse(key + ": expected true or false");
    if (v) return v->get<bool>();
    assume(key + " = " + (value ? "true" : "false") + " (" + why + ")");
    return value;
  }
  float real(const std::string& key, const json& v) const {
    if (!v.is_number() || !std::isfinite(v.get<double>()) || v.get<double>() <= 0)
      refuse(key + ": expected a number above 0");
    return v.get<float>();
  }
  float real_or(const std::string& key, float value, const char* text) {
    if (const json* v = find(key)) return real(key, *v);
    assume(key + " = " + text + " (the family's default)");
    return value;
  }

 private:
  const json& config_;
  std::string path_;
  HfConfig& out_;
  std::set<std::string> known_;
};

// The family's expert count is spelled in three ways; those that are there must agree.
int expert_count(Reader& r) {
  int count = 0;
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"})
    if (const json* v = r.find(key)) {
      const int n = r.whole(key, *v);
      if (count != 0 && n != count)
        r.refuse(std::string(key) + ": expected " + std::to_string(count) + " as under its other name, found " +
                 std::to_string(n));
      count = n;
    }
  if (count == 0) r.refuse("expected the key 'num_experts' (or 'num_local_experts'), found none");
  return count;
}

// transformers 5 keeps the base and everything else about RoPE in rope_parameters.
float rope_theta(Reader& r, float otherwise, const char* text) {
  const json *flat = r.find("rope_theta"), *nested = r.find("rope_parameters");
  if (!nested) return r.real_or("rope_theta", otherwise, text);
  if (!nested->is_object()) r.refuse("rope_parameters: expected a JSON object");
  for (const auto& [key, v] : nested->items()) {
    const bool fine = key == "rope_theta" || ((key == "rope_type" || key == "type") && v == "default") ||
                      (key == "partial_rotary_factor" && v.is_number() && v == 1.0) || says_no(v);
    if (!fine) r.refuse("rope_parameters." + key + " = " + v.dump() + " is not supported", "only plain RoPE is");
  }
  if (!nested->contains("rope_theta")) return r.real_or("rope_theta", otherwise, text);
  const float theta = r.real("rope_parameters.rope_theta", nested->at("rope_theta"));
  if (flat && r.real("rope_theta", *flat) != theta) r.refuse("rope_theta and rope_parameters.rope_theta differ");
  return theta;
}

void check_window(Reader& r, HfFamily family) {
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

void check_unsupported(Reader& r) {
  for (const char* key : kUnsupported) {
    const json* v = r.find(key);
    if (!v || says_no(*v)) continue;
    if (std::string(key) == "rope_scaling" && v->is_object() && v->size() == 1 && v->begin().value() == "default") continue;
    r.refuse(
        std::string(key) + " = " + v->dump().substr(0, 200) + " is not supported",
        std::string(key) == "quantization_config" ? "convert the model to BF16 first" : "the model here does not have it");
  }
  if (const json* v = r.find("hidden_act"); !v)
    r.assume("hidden_act = silu (the family's default)");
  else if (*v != "silu")
    r.refuse("hidden_act: expected silu, found " + v->dump());
}

// Which layers of Qwen3-MoE are dense; ours are the first so many.
int dense_layers(Reader& r, int num_layers) {
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

void read_family(Reader& r, HfFamily family, ModelConfig& m) {
  const bool mixtral = family == HfFamily::kMixtral, qwen = family == HfFamily::kQwen3Moe;
  m.qk_norm = mixtral ? QkNorm::kNone : qwen ? QkNorm::kHead : QkNorm::kFull;
  m.rope_theta = mixtral ? rope_theta(r, 1e6f, "1e6") : rope_theta(r, 1e4f, "1e4");
  m.norm_eps = qwen ? r.real_or("rms_norm_eps", 1e-6f, "1e-6") : r.real_or("rms_norm_eps", 1e-5f, "1e-5");
  m.router_renormalize = mixtral || r.bool_or("norm_topk_prob", false, "the family's default");
  m.expert_ffn = r.needed_int(qwen ? "moe_intermediate_size" : "intermediate_size");
  if (!qwen) return;
  m.num_dense_layers = dense_layers(r, m.num_layers);
  (void)r.find("intermediate_size");  // of dense layers only
  if (m.num_dense_layers > 0) m.dense_ffn = r.needed_int("intermediate_size");
}

void read_model(Reader& r, HfFamily family, ModelConfig& m) {
  m.vocab_size = r.needed_int("vocab_size");
  m.num_layers = r.needed_int("num_hidden_layers");
  m.d_model = r.needed_int("hidden_size");
  m.num_heads = r.needed_int("num_attention_heads");
  if (m.num_heads < 1) r.refuse("num_attention_heads: expected at least 1");
  m.num_kv_heads = r.int_or("num_key_value_heads", m.num_heads, "as num_attention_heads");
  m.head_dim = r.int_or("head_dim", m.d_model / m.num_heads, "hidden_size / num_attention_heads");
  m.num_experts = expert_count(r);
  m.top_k = r.needed_int("num_experts_per_tok");
  m.tied_embeddings = r.bool_or("tie_word_embeddings", false, "the family's default");
  if (const json* v = r.find("initializer_range")) m.init_std = r.real("initializer_range", *v);
  read_family(r, family, m);
}

HfFamily family_of(Reader& r) {
  const json* type = r.find("model_type");
  for (const HfFamily f : {HfFamily::kMixtral, HfFamily::kQwen3Moe, HfFamily::kOlmoe})
    if (type && *type == name_of(f)) return f;
  r.refuse("model_type: expected mixtral, qwen3_moe or olmoe, found " + (type ? type->dump().substr(0, 80) : "none"));
}

// Whatever nobody asked for is harmless by name, says no, or is refused.
void check_rest(const Reader& r, const json& config, HfConfig& out) {
  for (const auto& [key, value] : config.items()) {
    if (r.is_known(key) || key.starts_with("_")) continue;
    if (std::find(kIgnored.begin(), kIgnored.end(), key) != kIgnored.end()) continue;
    if (std::find(kCarried.begin(), kCarried.end(), key) != kCarried.end()) {
      out.carried[key] = value;
      if ((key == "attention_dropout" || key == "router_jitter_noise") && value.is_number() && value != 0.0)
        out.ignored.push_back(key + " = " + value.dump() + " (training only)");
    } else if (!says_no(value)) {
      r.refuse("unknown key '" + key.substr(0, 80) + "' = " + value.dump().substr(0, 80),
               "if it does not change what the model computes, take it out of config.json");
    }
  }
}

}  // namespace

const char* name_of(HfFamily family) {
  constexpr std::array kNames = {"mixtral", "qwen3_moe", "olmoe"};
  return kNames[static_cast<std::size_t>(family)];
}

HfConfig parse_hf_config(const json& config, const std::string& path) {
  HfConfig out;
  out.carried = json::object();
  Reader r(config, path, out);
  out.family = family_of(r);
  read_model(r, out.family, out.model);
  check_window(r, out.family);
  check_unsupported(r);
  check_rest(r, config, out);
  try {
    check_config(out.model);
  } catch (const Error& e) {  // speaks of our options
    throw Error(Exit::kBadInput, path + ": " + e.what(), e.hint());
  }
  return out;
}

}  // namespace moe
