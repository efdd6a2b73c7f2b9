#include "lib/model/params.h"

#include <algorithm>
#include <cmath>

namespace moe {
namespace {

using Shape = std::vector<std::int64_t>;

ParamSpec bias(const std::string& name, Shape shape, bool is_expert = false) {
  return {.name = name, .shape = std::move(shape), .is_expert = is_expert, .is_bias = true};
}

void add_gqa(std::vector<ParamSpec>& list, const ModelConfig& c, const std::string& layer) {
  const std::int64_t D = c.d_model, S = c.head_dim, H = c.num_heads, Hk = c.num_kv_heads;
  list.push_back({layer + "attn.qkv.weight", Shape{(H + 2 * Hk) * S, D}, c.init_std});
  if (c.attention_bias) list.push_back(bias(layer + "attn.qkv.bias", Shape{(H + 2 * Hk) * S}));
  if (c.attention_sinks) list.push_back(bias(layer + "attn.sinks", Shape{H}));
  if (c.qk_norm != QkNorm::kNone) {
    const bool full = c.qk_norm == QkNorm::kFull;
    list.push_back({layer + "attn.q_norm.weight", Shape{full ? H * S : S}});
    list.push_back({layer + "attn.k_norm.weight", Shape{full ? Hk * S : S}});
  }
}

void add_mla(std::vector<ParamSpec>& list, const ModelConfig& c, const std::string& layer) {
  const std::int64_t D = c.d_model, H = c.num_heads, Cq = c.q_lora_rank, Ckv = c.kv_lora_rank;
  if (Cq == 0) {
    list.push_back({layer + "attn.q.weight", Shape{H * c.qk_dim(), D}, c.init_std});
  } else {
    list.push_back({layer + "attn.q_a.weight", Shape{Cq, D}, c.init_std});
    list.push_back({layer + "attn.q_a_norm.weight", Shape{Cq}});
    list.push_back({layer + "attn.q_b.weight", Shape{H * c.qk_dim(), Cq}, c.init_std});
  }
  list.push_back({layer + "attn.kv_a.weight", Shape{Ckv + c.qk_rope_head_dim, D}, c.init_std});
  list.push_back({layer + "attn.kv_a_norm.weight", Shape{Ckv}});
  list.push_back({layer + "attn.kv_b.weight", Shape{H * (c.qk_nope_head_dim + c.v_head_dim), Ckv}, c.init_std});
}

void add_attention(std::vector<ParamSpec>& list, const ModelConfig& c, const std::string& layer, float out_std) {
  list.push_back({layer + "attn_norm.weight", Shape{c.d_model}});
  c.is_mla() ? add_mla(list, c, layer) : add_gqa(list, c, layer);
  list.push_back({layer + "attn.o.weight", Shape{c.d_model, std::int64_t{c.num_heads} * c.value_dim()}, out_std});
  if (c.attention_bias) list.push_back(bias(layer + "attn.o.bias", Shape{c.d_model}));
}

void add_moe(std::vector<ParamSpec>& list, const ModelConfig& c, const std::string& layer, float out_std) {
  const std::int64_t D = c.d_model, E = c.num_experts, F = c.expert_ffn, Fs = F * c.num_shared_experts;
  list.push_back({layer + "router.weight", Shape{E, D}, c.init_std});
  if (c.router_logit_bias) list.push_back(bias(layer + "router.bias", Shape{E}));
  list.push_back({layer + "experts.gate_up.weight", Shape{E, 2 * F, D}, c.init_std, true});
  list.push_back({layer + "experts.down.weight", Shape{E, D, F}, out_std, true});
  if (c.expert_bias) {
    list.push_back(bias(layer + "experts.gate_up.bias", Shape{E, 2 * F, 1}, true));
    list.push_back(bias(layer + "experts.down.bias", Shape{E, D, 1}, true));
  }
  if (Fs == 0) return;
  list.push_back({layer + "shared.gate_up.weight", Shape{2 * Fs, D}, c.init_std});
  list.push_back({layer + "shared.down.weight", Shape{D, Fs}, out_std});
}

// A module's input is projection [norm(embedding of the next token) | norm(hidden)]; its output passes a norm of its own
// before the shared head. The hidden state that it gets is the model's, or the module's before, behind the last norm.
void add_mtp(std::vector<ParamSpec>& list, const ModelConfig& c, const std::string& layer) {
  const std::int64_t D = c.d_model;
  list.push_back({layer + "mtp.embedding_norm.weight", Shape{D}});
  list.push_back({layer + "mtp.hidden_norm.weight", Shape{D}});
  list.push_back({layer + "mtp.projection.weight", Shape{D, 2 * D}, c.init_std});
}

// The matrices of a block as the papers write them and Hugging Face stores them: q, k and v apart, gate and up apart; those
// of latent attention and the router as they are. A pair that is fused here is fused for the speed of products alone.
Shape matrices_of(const ParamSpec& spec, const ModelConfig& c) {
  if (spec.layer() < 0 || !spec.decays()) return {};
  const std::int64_t rows = spec.shape[spec.is_expert ? 1 : 0], S = c.head_dim;
  if (spec.name.ends_with(".qkv.weight")) return {c.num_heads * S, c.num_kv_heads * S, c.num_kv_heads * S};
  if (spec.name.ends_with(".gate_up.weight")) return {rows / 2, rows / 2};
  return {rows};
}

}  // namespace

std::vector<ParamSpec> parameter_specs(const ModelConfig& c) {
  const std::int64_t D = c.d_model, V = c.vocab_size;
  // Outputs into the residual stream start smaller, so that its variance does not grow with depth (GPT-2, section 2.3).
  const float out_std = c.init_std / std::sqrt(2.0f * static_cast<float>(c.num_layers));
  std::vector<ParamSpec> list;
  list.push_back({"embedding.weight", Shape{V, D}, c.init_std, false, true});
  for (int i = 0; i < c.num_blocks(); ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    if (c.is_mtp_layer(i)) add_mtp(list, c, layer);
    add_attention(list, c, layer, out_std);
    list.push_back({layer + "ffn_norm.weight", Shape{D}});
    if (c.is_dense_layer(i)) {
      list.push_back({layer + "mlp.gate_up.weight", Shape{2 * c.dense_ffn, D}, c.init_std});
      list.push_back({layer + "mlp.down.weight", Shape{D, c.dense_ffn}, out_std});
    } else {
      add_moe(list, c, layer, out_std);
    }
    if (c.is_mtp_layer(i)) list.push_back({layer + "mtp.norm.weight", Shape{D}});
  }
  list.push_back({"final_norm.weight", Shape{D}});
  if (!c.tied_embeddings) list.push_back({"head.weight", Shape{V, D}, c.init_std});
  for (ParamSpec& spec : list) spec.matrix_rows = matrices_of(spec, c);
  return list;
}

BlockParams block_params(const ParamStore& store, int layer) {
  const std::string prefix = "layers." + std::to_string(layer) + ".";
  auto get = [&](const char* name) -> const Param* {
    for (const Param& p : store.all())
      if (p.spec.name == prefix + name) return &p;
    return nullptr;
  };
  return {.attn_norm = get("attn_norm.weight"),
          .qkv = get("attn.qkv.weight"),
          .q_norm = get("attn.q_norm.weight"),
          .k_norm = get("attn.k_norm.weight"),
          .o = get("attn.o.weight"),
          .ffn_norm = get("ffn_norm.weight"),
          .q = get("attn.q.weight"),
          .q_a = get("attn.q_a.weight"),
          .q_a_norm = get("attn.q_a_norm.weight"),
          .q_b = get("attn.q_b.weight"),
          .kv_a = get("attn.kv_a.weight"),
          .kv_a_norm = get("attn.kv_a_norm.weight"),
          .kv_b = get("attn.kv_b.weight"),
          .gate_up = get("mlp.gate_up.weight"),
          .down = get("mlp.down.weight"),
          .router = get("router.weight"),
          .expert_gate_up = get("experts.gate_up.weight"),
          .expert_down = get("experts.down.weight"),
          .shared_gate_up = get("shared.gate_up.weight"),
          .shared_down = get("shared.down.weight"),
          .qkv_bias = get("attn.qkv.bias"),
          .sinks = get("attn.sinks"),
          .o_bias = get("attn.o.bias"),
          .router_bias = get("router.bias"),
          .expert_gate_up_bias = get("experts.gate_up.bias"),
          .expert_down_bias = get("experts.down.bias"),
          .mtp_embedding_norm = get("mtp.embedding_norm.weight"),
          .mtp_hidden_norm = get("mtp.hidden_norm.weight"),
          .mtp_projection = get("mtp.projection.weight"),
          .mtp_norm = get("mtp.norm.weight")};
}

namespace {

std::int64_t num_router_biases(const ModelConfig& c, int num_moe_layers) {
  return c.router_bias ? std::int64_t{num_moe_layers} * c.num_experts : 0;
}
int num_mtp_moe_layers(const ModelConfig& c) { return c.num_moe_layers() > 0 ? c.num_mtp_layers : 0; }

double attention_flop(const ModelConfig& c, int layer, int seq_len, bool causal) {
  const int window = c.window_of(layer), length = window > 0 ? std::min(window, seq_len) : seq_len;
  return 3.0 * c.num_heads * (c.qk_dim() + c.value_dim()) * 2.0 * length * (causal ? 0.5 : 1.0);
}

}  // namespace

ParamCounts count_parameters(const ModelConfig& c) {
  ParamCounts n;
  for (const ParamSpec& spec : parameter_specs(c)) {
    const std::int64_t all = spec.num_elements();
    const std::int64_t used = spec.is_expert ? all / c.num_experts * c.top_k : all;
    if (c.is_mtp_layer(spec.layer())) {
      n.mtp += all, n.mtp_active += used;
      continue;
    }
    n.total += all;
    n.active += used;
    if (!spec.is_input_embedding || c.tied_embeddings) n.active_no_embedding += used;
    if (spec.is_expert) n.experts += all;
  }
  const std::int64_t mtp = num_router_biases(c, num_mtp_moe_layers(c));
  const std::int64_t biases = num_router_biases(c, c.num_moe_layers()) - mtp;
  n.total += biases, n.active += biases, n.active_no_embedding += biases;
  n.mtp += mtp, n.mtp_active += mtp;
  return n;
}

double flop_per_token(const ModelConfig& c, int seq_len, bool causal) {
  double attention = 0;
  for (int layer = 0; layer < c.num_blocks(); ++layer) attention += attention_flop(c, layer, seq_len, causal);
  const ParamCounts n = count_parameters(c);
  const std::int64_t heads = std::int64_t{c.num_mtp_layers} * c.vocab_size * c.d_model;
  const std::int64_t multiplied = n.active_no_embedding + n.mtp_active + heads - num_router_biases(c, c.num_moe_layers());
  return 6.0 * static_cast<double>(multiplied) + attention;
}

}  // namespace moe
