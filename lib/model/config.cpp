#include "lib/model/config.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "lib/base/error.h"
#include "lib/base/text_list.h"

namespace moe {

RouterShape ModelConfig::router_shape() const {
  return {.num_experts = num_experts,
          .top_k = top_k,
          .score = router_score,
          .renormalize = router_renormalize,
          .scale = router_scale,
          .num_groups = num_expert_groups,
          .num_groups_kept = num_groups_kept,
          .group_score = group_score};
}

int ModelConfig::window_of(int layer) const {
  const std::vector<std::string> types = split_list(layer_types);
  return types[static_cast<std::size_t>(layer) % types.size()] == "sliding" ? sliding_window : 0;
}

double YarnOptions::attention_factor(double m) const {
  return factor > 1 ? 0.1 * m * std::log(static_cast<double>(factor)) + 1 : 1;
}

float ModelConfig::attention_scale() const {
  return static_cast<float>(yarn.score_factor()) / std::sqrt(static_cast<float>(qk_dim()));
}

// Pair i turns original_length * theta^(-2i/R) / 2 pi times within the original length; that many turns are beta at
// i = R ln(original_length / (2 pi beta)) / (2 ln theta).
double ModelConfig::rope_frequency(int pair) const {
  const double R = rope_dim(), theta = rope_theta, i = pair;
  const double plain = std::pow(theta, -2 * i / R);
  if (yarn.factor <= 1) return plain;
  const auto pair_of = [&](double beta) {
    return R * std::log(yarn.original_length / (2 * std::numbers::pi * beta)) / (2 * std::log(theta));
  };
  double low = pair_of(yarn.beta_fast), high = pair_of(yarn.beta_slow);
  if (yarn.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0), high = std::min(high, R - 1);
  if (low == high) high += 0.001;  // as Hugging Face does
  const double stretched = std::clamp((i - low) / (high - low), 0.0, 1.0);
  return plain * (1 - stretched) + plain / yarn.factor * stretched;
}

namespace {

void add_attention_options(Options& o, ModelConfig& c) {
  o.add("attention", c.attention, "grouped queries, or multi-head latent attention (DeepSeek-V2)", {"gqa", "mla"});
  o.add("kv-heads", c.num_kv_heads, "key/value heads (a divisor of --heads); gqa");
  o.add("head-dim", c.head_dim, "width S of a head (even); gqa");
  o.add("kv-lora-rank", c.kv_lora_rank, "width of the compressed keys and values; mla");
  o.add("q-lora-rank", c.q_lora_rank, "width of the compressed queries, 0 does not compress them; mla");
  o.add("qk-nope-head-dim", c.qk_nope_head_dim, "part of a query or key head without position; mla");
  o.add("qk-rope-head-dim", c.qk_rope_head_dim, "part with rotary position, which all keys share (even); mla");
  o.add("v-head-dim", c.v_head_dim, "width of a value head; mla");
}

void add_rope_options(Options& o, ModelConfig& c) {
  YarnOptions& y = c.yarn;
  o.add("rope-theta", c.rope_theta, "base of the rotary frequencies");
  o.add("rope-interleaved", c.rope_interleaved, "rotary embedding turns neighbours (2i, 2i+1), not (i, i+S/2)");
  o.add("rope-factor", y.factor, "stretch of the rotary embedding by YaRN; 1 is none");
  o.add("rope-original-length", y.original_length, "positions before the stretch");
  o.add("rope-beta-fast", y.beta_fast, "frequencies with more turns than this in the original length stay");
  o.add("rope-beta-slow", y.beta_slow, "frequencies with fewer turns than this are divided by the factor");
  o.add("rope-truncate", y.truncate, "the ramp between both ends at whole dimensions");
  o.add("rope-mscale", y.mscale, "cosines and sines grow by g(this) / g(--rope-mscale-all-dim)");
  o.add("rope-mscale-all-dim", y.mscale_all_dim, "scores grow by g(this)^2, g(m) = 0.1 m ln(factor) + 1");
}

}  // namespace

void add_model_options(Options& o, ModelConfig& c) {
  o.group("Model");
  o.add("vocab-size", c.vocab_size, "vocabulary size V; 0 takes the data's");
  o.add("layers", c.num_layers, "number of blocks L");
  o.add("d-model", c.d_model, "width D of the residual stream");
  o.add("heads", c.num_heads, "query heads H");
  add_attention_options(o, c);
  add_rope_options(o, c);
  o.add("norm-eps", c.norm_eps, "epsilon of the RMS norms");
  o.add("qk-norm", c.qk_norm, "RMS norm of queries and keys: per head or over the whole projection",
        {"none", "head", "full"});
  o.add("dense-layers", c.num_dense_layers, "first blocks with a dense SwiGLU instead of experts");
  o.add("dense-ffn", c.dense_ffn, "hidden width of the dense blocks");
  o.add("experts", c.num_experts, "routed experts E of a block");
  o.add("top-k", c.top_k, "experts K per token");
  o.add("expert-ffn", c.expert_ffn, "hidden width F of an expert");
  o.add("shared-experts", c.num_shared_experts, "experts that every token passes");
  o.add("router-score", c.router_score, "how logits become scores", {"softmax", "sigmoid"});
  o.add("router-renormalize", c.router_renormalize, "divide the chosen scores by their sum");
  o.add("router-scale", c.router_scale, "factor on the gates");
  o.add("expert-groups", c.num_expert_groups, "groups of experts for group-limited routing");
  o.add("groups-kept", c.num_groups_kept, "groups that a token may use");
  o.add("group-score", c.group_score, "score of a group: sum of its two best experts or its best", {"top2-sum", "max"});
  o.add("max-nodes-per-token", c.max_nodes_per_token,
        "nodes of the expert-parallel group whose experts a token may use (node-limited routing); 0 sets no limit");
  o.add("router-bias", c.router_bias, "expert bias seen only by the selection (aux-loss-free balancing)");
  o.add("attention-bias", c.attention_bias, "biases of queries, keys, values and the output map; gqa");
  o.add("attention-sinks", c.attention_sinks, "a learnt logit per head that takes weight and gives no value; gqa");
  o.add("sliding-window", c.sliding_window, "tokens that a sliding layer sees, the own one included; 0: all");
  o.add("layer-types", c.layer_types, "sliding or full, of the blocks in turn, over and over: sliding,full");
  o.add("router-logit-bias", c.router_logit_bias, "bias of the router's logits");
  o.add("expert-bias", c.expert_bias, "biases of the experts' two maps");
  o.add("swiglu-limit", c.swiglu_limit, "SwiGLU as (u + 1) g sigmoid(1.702 g), g at most and u within this; 0: plain");
  o.add("mtp-depth", c.num_mtp_layers, "modules that predict one token more each (multi-token prediction)");
  o.add("tied-embeddings", c.tied_embeddings, "input embedding and output head share one matrix");
  o.add("init-std", c.init_std, "standard deviation of the initial weights");
}

void add_balance_options(Options& o, BalanceOptions& b) {
  o.group("Expert balance");
  o.add("aux-loss", b.aux, "factor of the micro-batch balance loss");
  o.add("seq-aux-loss", b.seq_aux, "factor of the sequence-wise balance loss");
  o.add("global-aux-loss", b.global_aux, "factor of the global-batch balance loss");
  o.add("z-loss", b.z, "factor of the router z-loss");
  o.add("bias-update-speed", b.bias_update_speed,
        "step of the expert bias after each update; needs --router-bias; 0.001,0@0.966 takes 0 from 96.6 % of the run on, "
        "0.001,0@14.3T from that many tokens on",
        "FLOAT,FLOAT@POINT,...");
  o.add("capacity-factor", b.capacity_factor, "rows an expert takes at most, as a multiple of the mean; 0 is dropless");
}

namespace {

void need(bool ok, const std::string& option, const std::string& expected, double found, const std::string& hint = "") {
  if (ok) return;
  std::string value = std::to_string(found);
  if (value.find('.') != std::string::npos) value.erase(value.find_last_not_of('0') + 1);
  if (value.ends_with('.')) value.pop_back();
  throw Error(Exit::kUsage, "--" + option + ": expected " + expected + ", found " + value, hint);
}

constexpr const char* kPairs = "rotary embedding turns pairs of elements";

void check_gqa(const ModelConfig& c) {
  need(c.num_kv_heads >= 1 && c.num_heads % c.num_kv_heads == 0, "kv-heads", "a divisor of --heads", c.num_kv_heads);
  need(c.head_dim >= 2 && c.head_dim % 2 == 0, "head-dim", "an even number of at least 2", c.head_dim, kPairs);
}

void check_mla(const ModelConfig& c) {
  need(c.kv_lora_rank >= 1, "kv-lora-rank", "at least 1", c.kv_lora_rank);
  need(c.q_lora_rank >= 0, "q-lora-rank", "at least 1, or 0 for queries that are not compressed", c.q_lora_rank);
  need(c.qk_nope_head_dim >= 1, "qk-nope-head-dim", "at least 1", c.qk_nope_head_dim);
  need(c.qk_rope_head_dim >= 2 && c.qk_rope_head_dim % 2 == 0, "qk-rope-head-dim", "an even number of at least 2",
       c.qk_rope_head_dim, kPairs);
  need(c.v_head_dim >= 1, "v-head-dim", "at least 1", c.v_head_dim);
  if (c.qk_norm != QkNorm::kNone)
    throw Error(Exit::kUsage, "--qk-norm: expected none with --attention mla, whose compressed vectors have norms",
                "add --qk-norm none");
}

void check_rope(const ModelConfig& c) {
  const YarnOptions& y = c.yarn;
  need(c.rope_theta > 0, "rope-theta", "more than 0", c.rope_theta);
  need(y.factor >= 1, "rope-factor", "at least 1", y.factor);
  if (y.factor == 1) return;
  need(c.rope_theta > 1, "rope-theta", "more than 1 with --rope-factor", c.rope_theta);
  need(y.original_length >= 1, "rope-original-length", "at least 1", y.original_length);
  need(y.beta_slow > 0, "rope-beta-slow", "more than 0", y.beta_slow);
  need(y.beta_fast >= y.beta_slow, "rope-beta-fast", "at least --rope-beta-slow", y.beta_fast);
  need(y.mscale >= 0, "rope-mscale", "at least 0", y.mscale);
  need(y.mscale_all_dim >= 0, "rope-mscale-all-dim", "at least 0", y.mscale_all_dim);
}

void check_extras(const ModelConfig& c) {
  for (const std::string& type : split_list(c.layer_types))
    if (type != "full" && type != "sliding")
      throw Error(Exit::kUsage, "--layer-types: expected a list of full and sliding, found \"" + c.layer_types + "\"");
  need(c.sliding_window >= 0, "sliding-window", "at least 1, or 0 for none", c.sliding_window);
  need(c.swiglu_limit >= 0, "swiglu-limit", "more than 0, or 0 for plain SwiGLU", c.swiglu_limit);
  need(c.num_mtp_layers >= 0, "mtp-depth", "at least 0", c.num_mtp_layers);
  if (c.is_mla() && (c.attention_bias || c.attention_sinks))
    throw Error(Exit::kUsage, "--attention-bias, --attention-sinks: expected --attention gqa, found mla");
}

}  // namespace

void check_config(const ModelConfig& c) {
  need(c.vocab_size >= 1, "vocab-size", "at least 1", c.vocab_size);
  need(c.num_layers >= 1, "layers", "at least 1", c.num_layers);
  need(c.d_model >= 1, "d-model", "at least 1", c.d_model);
  need(c.num_heads >= 1, "heads", "at least 1", c.num_heads);
  c.is_mla() ? check_mla(c) : check_gqa(c);
  check_rope(c);
  need(c.num_dense_layers >= 0 && c.num_dense_layers <= c.num_layers, "dense-layers", "0 to --layers", c.num_dense_layers);
  need(c.num_dense_layers == 0 || c.dense_ffn >= 1, "dense-ffn", "at least 1 with --dense-layers", c.dense_ffn);
  need(c.num_experts >= 1, "experts", "at least 1", c.num_experts);
  need(c.top_k >= 1 && c.top_k <= c.num_experts, "top-k", "1 to --experts", c.top_k);
  need(c.expert_ffn >= 1, "expert-ffn", "at least 1", c.expert_ffn);
  need(c.num_shared_experts >= 0, "shared-experts", "at least 0", c.num_shared_experts);
  need(c.num_expert_groups >= 1 && c.num_experts % c.num_expert_groups == 0, "expert-groups", "a divisor of --experts",
       c.num_expert_groups);
  need(c.num_groups_kept >= 1 && c.num_groups_kept <= c.num_expert_groups, "groups-kept", "1 to --expert-groups",
       c.num_groups_kept);
  need(c.num_groups_kept * (c.num_experts / c.num_expert_groups) >= c.top_k, "groups-kept",
       "groups that hold at least --top-k experts", c.num_groups_kept);
  need(c.max_nodes_per_token >= 0, "max-nodes-per-token", "at least 1, or 0 for no limit", c.max_nodes_per_token);
  check_extras(c);
  need(c.norm_eps > 0, "norm-eps", "more than 0", c.norm_eps);
  need(c.init_std > 0, "init-std", "more than 0", c.init_std);
}

}  // namespace moe
