#include "lib/model/config.h"

#include "lib/base/error.h"

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

void add_model_options(Options& o, ModelConfig& c) {
  o.group("Model");
  o.add("vocab-size", c.vocab_size, "vocabulary size V; 0 takes the data's");
  o.add("layers", c.num_layers, "number of blocks L");
  o.add("d-model", c.d_model, "width D of the residual stream");
  o.add("heads", c.num_heads, "query heads H");
  o.add("kv-heads", c.num_kv_heads, "key/value heads (a divisor of --heads)");
  o.add("head-dim", c.head_dim, "width S of a head (even)");
  o.add("rope-theta", c.rope_theta, "base of the rotary frequencies");
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
  o.add("tied-embeddings", c.tied_embeddings, "input embedding and output head share one matrix");
  o.add("init-std", c.init_std, "standard deviation of the initial weights");
}

void add_balance_options(Options& o, BalanceOptions& b) {
  o.group("Expert balance");
  o.add("aux-loss", b.aux, "factor of the micro-batch balance loss");
  o.add("seq-aux-loss", b.seq_aux, "factor of the sequence-wise balance loss");
  o.add("global-aux-loss", b.global_aux, "factor of the global-batch balance loss");
  o.add("z-loss", b.z, "factor of the router z-loss");
  o.add("bias-update-speed", b.bias_update_speed, "step of the expert bias after each update; needs --router-bias");
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

}  // namespace

void check_config(const ModelConfig& c) {
  need(c.vocab_size >= 1, "vocab-size", "at least 1", c.vocab_size);
  need(c.num_layers >= 1, "layers", "at least 1", c.num_layers);
  need(c.d_model >= 1, "d-model", "at least 1", c.d_model);
  need(c.num_heads >= 1, "heads", "at least 1", c.num_heads);
  need(c.num_kv_heads >= 1 && c.num_heads % c.num_kv_heads == 0, "kv-heads", "a divisor of --heads", c.num_kv_heads);
  need(c.head_dim >= 2 && c.head_dim % 2 == 0, "head-dim", "an even number of at least 2", c.head_dim,
       "rotary embedding turns pairs of elements");
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
  need(c.norm_eps > 0, "norm-eps", "more than 0", c.norm_eps);
  need(c.rope_theta > 0, "rope-theta", "more than 0", c.rope_theta);
  need(c.init_std > 0, "init-std", "more than 0", c.init_std);
}

}  // namespace moe
