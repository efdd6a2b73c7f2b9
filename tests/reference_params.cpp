// The list of parameters of the specification, and random values for them. Not here: how a model is initialised for
// training (lib/model); these values only have to make every operation matter.
#include <cmath>
#include <random>

#include "tests/reference.h"

namespace moe {
namespace {

void add_latent_attention(const ModelConfig& c, const std::string& layer, std::vector<ReferenceShape>& list) {
  const std::int64_t D = c.d_model, H = c.num_heads, Q = c.q_lora_rank, C = c.kv_lora_rank;
  const std::int64_t N = c.qk_nope_head_dim, R = c.qk_rope_head_dim, V = c.v_head_dim;
  list.push_back({layer + "attn_norm.weight", {D}});
  if (Q > 0) {
    list.push_back({layer + "attn.q_a.weight", {Q, D}});
    list.push_back({layer + "attn.q_a_norm.weight", {Q}});
  }
  // Rows of each head: without position, with position.
  list.push_back({layer + (Q > 0 ? "attn.q_b.weight" : "attn.q.weight"), {H * (N + R), Q > 0 ? Q : D}});
  list.push_back({layer + "attn.kv_a.weight", {C + R, D}});  // rows of the compressed vector, then of the shared key part
  list.push_back({layer + "attn.kv_a_norm.weight", {C}});
  list.push_back({layer + "attn.kv_b.weight", {H * (N + V), C}});  // rows of each head: key, value
  list.push_back({layer + "attn.o.weight", {D, H * V}});
}

void add_attention(const ModelConfig& c, const std::string& layer, std::vector<ReferenceShape>& list) {
  if (c.attention == AttentionKind::kMla) return add_latent_attention(c, layer, list);
  const std::int64_t D = c.d_model, S = c.head_dim, H = c.num_heads, Hk = c.num_kv_heads;
  list.push_back({layer + "attn_norm.weight", {D}});
  list.push_back({layer + "attn.qkv.weight", {(H + 2 * Hk) * S, D}});  // rows of q, then k, then v
  if (c.attention_bias) list.push_back({layer + "attn.qkv.bias", {(H + 2 * Hk) * S}});
  if (c.attention_sinks) list.push_back({layer + "attn.sinks", {H}});
  if (c.qk_norm != QkNorm::kNone) {
    list.push_back({layer + "attn.q_norm.weight", {c.qk_norm == QkNorm::kHead ? S : H * S}});
    list.push_back({layer + "attn.k_norm.weight", {c.qk_norm == QkNorm::kHead ? S : Hk * S}});
  }
  list.push_back({layer + "attn.o.weight", {D, H * S}});
  if (c.attention_bias) list.push_back({layer + "attn.o.bias", {D}});
}

void add_ffn(const ModelConfig& c, const std::string& layer, bool dense, std::vector<ReferenceShape>& list) {
  const std::int64_t D = c.d_model, E = c.num_experts, F = c.expert_ffn, Fs = F * c.num_shared_experts;
  list.push_back({layer + "ffn_norm.weight", {D}});
  if (dense) {
    list.push_back({layer + "mlp.gate_up.weight", {2 * c.dense_ffn, D}});  // rows of gate, then up
    list.push_back({layer + "mlp.down.weight", {D, c.dense_ffn}});
    return;
  }
  list.push_back({layer + "router.weight", {E, D}});
  if (c.router_logit_bias) list.push_back({layer + "router.bias", {E}});
  list.push_back({layer + "experts.gate_up.weight", {E, 2 * F, D}});
  list.push_back({layer + "experts.down.weight", {E, D, F}});
  if (c.expert_bias) {
    list.push_back({layer + "experts.gate_up.bias", {E, 2 * F, 1}});
    list.push_back({layer + "experts.down.bias", {E, D, 1}});
  }
  if (c.num_shared_experts == 0) return;
  list.push_back({layer + "shared.gate_up.weight", {2 * Fs, D}});
  list.push_back({layer + "shared.down.weight", {D, Fs}});
}

}  // namespace

std::int64_t ReferenceShape::size() const {
  std::int64_t n = 1;
  for (const std::int64_t d : dims) n *= d;
  return n;
}

std::vector<ReferenceShape> reference_shapes(const ModelConfig& c) {
  std::vector<ReferenceShape> list = {{"embedding.weight", {c.vocab_size, c.d_model}}};
  for (int i = 0; i < c.num_layers + c.num_mtp_layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    if (i >= c.num_layers) {  // a module of multi-token prediction
      for (const char* norm : {"mtp.embedding_norm.weight", "mtp.hidden_norm.weight"})
        list.push_back({layer + norm, {c.d_model}});
      list.push_back({layer + "mtp.projection.weight", {c.d_model, 2 * c.d_model}});  // columns of the embedding first
    }
    add_attention(c, layer, list);
    add_ffn(c, layer, c.is_dense_layer(i), list);
    if (i >= c.num_layers) list.push_back({layer + "mtp.norm.weight", {c.d_model}});
  }
  list.push_back({"final_norm.weight", {c.d_model}});
  if (!c.tied_embeddings) list.push_back({"head.weight", {c.vocab_size, c.d_model}});
  return list;
}

// Box-Muller on the generator's raw bits: std::normal_distribution is not the same in every library.
ReferenceParams reference_random_params(const ModelConfig& c, std::uint64_t seed, double std) {
  std::mt19937_64 bits(seed);
  const auto uniform = [&] { return (static_cast<double>(bits() >> 11) + 0.5) * 0x1p-53; };
  ReferenceParams params;
  for (const ReferenceShape& s : reference_shapes(c)) {
    const double mean = s.name.ends_with("norm.weight") ? 1 : 0;
    for (std::int64_t i = 0; i < s.size(); ++i) {
      const double radius = std::sqrt(-2 * std::log(uniform()));
      params[s.name].push_back(mean + std * radius * std::cos(2 * std::acos(-1.0) * uniform()));
    }
  }
  return params;
}

}  // namespace moe
