// Multi-head latent attention (DeepSeek-V2, section 2.1) between the block's norm and its output map, without absorption:
//   [c | k_R] = Wkv_a n1,   [k_C; v] of each head = Wkv_b norm(c),   q = Wq n1 or Wq_b norm(Wq_a n1)
//   o = attention([q_C | rope(q_R)], [k_C | rope(k_R)], v)           k_R is one for all heads
// Memory is described in mla_slot.h. Under the light policy I computes norms and up-projections again, W the norms.
// Not here: the norm, Wo and the residual stream (attention.cpp), attention over a cache (cache_attention.cpp).
#include <tuple>

#include "lib/model/block.h"

namespace moe {

LatentShape latent_shape(const ModelConfig& c) {
  return {
      .num_heads = c.num_heads, .nope_dim = c.qk_nope_head_dim, .rope_dim = c.qk_rope_head_dim, .value_dim = c.v_head_dim};
}

namespace {

// The parts of [c | k_R] and of its gradient.
Mat latent_part(const BlockContext& b, Mat kva) { return kva.slice_cols(0, b.config.kv_lora_rank); }
Mat key_part(const BlockContext& b, Mat kva) { return kva.slice_cols(b.config.kv_lora_rank, b.config.qk_rope_head_dim); }

using Turn = decltype(RopeKernels::forward);
void turn_queries(const BlockContext& b, Mat q, Turn turn) {
  turn(b.env.stream, q, b.rope_shape(b.config.qk_dim(), b.config.qk_nope_head_dim), b.rope.pos_T, b.rope.cos_PR2.data(),
       b.rope.sin_PR2.data());
}
void turn_key(const BlockContext& b, Mat kva, Turn turn) {
  turn(b.env.stream, key_part(b, kva), b.rope_shape(b.config.qk_rope_head_dim, 0), b.rope.pos_T, b.rope.cos_PR2.data(),
       b.rope.sin_PR2.data());
}

void norm(const BlockContext& b, Mat x, const Param& weight, Mat y, std::span<float> rstd) {
  b.env.kernels.rmsnorm.forward(b.env.stream, x, weight.weight, 1, b.config.norm_eps, y, rstd.data());
}
void norms_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  norm(b, latent_part(b, s.kva_TC), *b.params.kv_a_norm, s.kvn_TC, s.rstd_kv_T);
  if (b.params.q_a) norm(b, s.qa_TQ, *b.params.q_a_norm, s.qn_TQ, s.rstd_q_T);
}

// q from its compressed vector, if it has one.
void up_queries(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  const auto& [stream, k] = b.env;
  if (!b.params.q_a) return;
  k.gemm.forward(stream, s.qn_TQ, b.params.q_b->weight, s.q_TC, Store::kAssign);
  turn_queries(b, s.q_TC, k.rope.forward);
}

// k, v and q from what is kept: compressed vectors before their norms, the turned key part.
void up_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  const auto& [stream, k] = b.env;
  norms_forward(a);
  k.gemm.forward(stream, s.kvn_TC, b.params.kv_b->weight, b.work.mla.kv_TC, Store::kAssign);
  k.latent.split(stream, latent_shape(b.config), b.work.mla.kv_TC, key_part(b, s.kva_TC), s.k_TC, s.v_TC);
  up_queries(a);
}

// Generation: few tokens need no keys and values of their own.
void forward_over_cache(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  const bool prefill = a.batch.cache->is_prefill();
  if (prefill) {
    up_forward(a);
  } else {
    norms_forward(a);
    up_queries(a);
  }
  append_latent(a, s.kvn_TC, key_part(b, s.kva_TC));
  prefill ? mla_prefill(a) : mla_over_cache(a);
}

void forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  k.gemm.forward(stream, s.n1_TD, b.params.kv_a->weight, s.mla.kva_TC, Store::kAssign);
  turn_key(b, s.mla.kva_TC, k.rope.forward);
  if (b.params.q_a) {
    k.gemm.forward(stream, s.n1_TD, b.params.q_a->weight, s.mla.qa_TQ, Store::kAssign);
  } else {
    k.gemm.forward(stream, s.n1_TD, b.params.q->weight, s.mla.q_TC, Store::kAssign);
    turn_queries(b, s.mla.q_TC, k.rope.forward);
  }
  if (a.batch.cache) return forward_over_cache(a);
  up_forward(a);
  k.attention.forward(stream, b.attention_shape(a.batch.shape), s.mla.q_TC, s.mla.k_TC, s.mla.v_TC, a.batch.doc_start_T,
                      s.o_TC, s.lse_TH.data());
}

// dq -> dn1 (=)
void queries_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  const auto& [stream, k] = b.env;
  const MlaStash& st = b.stash.mla;
  turn_queries(b, st.dq_TC, k.rope.backward);
  if (!b.params.q_a) return k.gemm.backward_input(stream, st.dq_TC, b.params.q->weight, b.stash.dn1_TD, Store::kAssign);
  k.gemm.backward_input(stream, st.dq_TC, b.params.q_b->weight, st.dqn_TQ, Store::kAssign);
  k.rmsnorm.backward_input(stream, st.dqn_TQ, s.qa_TQ, b.params.q_a_norm->weight, 1, s.rstd_q_T.data(), st.dqa_TQ,
                           Store::kAssign);
  k.gemm.backward_input(stream, st.dqa_TQ, b.params.q_a->weight, b.stash.dn1_TD, Store::kAssign);
}

// dk, dv -> dn1 (+=)
void keys_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  const auto& [stream, k] = b.env;
  const MlaStash& st = b.stash.mla;
  k.latent.join(stream, latent_shape(b.config), b.work.mla.dk_TC, b.work.mla.dv_TC, st.dkv_TC, key_part(b, st.dkva_TC));
  turn_key(b, st.dkva_TC, k.rope.backward);
  k.gemm.backward_input(stream, st.dkv_TC, b.params.kv_b->weight, st.dkvn_TC, Store::kAssign);
  k.rmsnorm.backward_input(stream, st.dkvn_TC, latent_part(b, s.kva_TC), b.params.kv_a_norm->weight, 1, s.rstd_kv_T.data(),
                           latent_part(b, st.dkva_TC), Store::kAssign);
  k.gemm.backward_input(stream, st.dkva_TC, b.params.kv_a->weight, b.stash.dn1_TD, Store::kAdd);
}

void backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  if (b.recompute == Recompute::kLight) up_forward(a);
  k.attention.backward(stream, b.attention_shape(a.batch.shape), s.mla.q_TC, s.mla.k_TC, s.mla.v_TC, s.o_TC, s.lse_TH.data(),
                       a.batch.doc_start_T, b.work.do_TC, b.stash.mla.dq_TC, b.work.mla.dk_TC, b.work.mla.dv_TC, nullptr);
  queries_backward_input(a);
  keys_backward_input(a);
}

void norm_backward_weight(const BlockContext& b, Mat dy, Mat x, std::span<float> rstd, const Param& weight) {
  b.env.kernels.rmsnorm.backward_weight(b.env.stream, dy, x, 1, rstd.data(), weight.grad.f32());
}

void backward_weight(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot.mla);
  const auto& [stream, k] = b.env;
  const MlaStash& st = b.stash.mla;
  const Mat n1 = a.slot.n1_TD;
  if (b.recompute == Recompute::kLight) norms_forward(a);
  k.gemm.backward_weight(stream, st.dkv_TC, s.kvn_TC, b.params.kv_b->grad);
  norm_backward_weight(b, st.dkvn_TC, latent_part(b, s.kva_TC), s.rstd_kv_T, *b.params.kv_a_norm);
  k.gemm.backward_weight(stream, st.dkva_TC, n1, b.params.kv_a->grad);
  if (!b.params.q_a) return k.gemm.backward_weight(stream, st.dq_TC, n1, b.params.q->grad);
  k.gemm.backward_weight(stream, st.dq_TC, s.qn_TQ, b.params.q_b->grad);
  norm_backward_weight(b, st.dqn_TQ, s.qa_TQ, s.rstd_q_T, *b.params.q_a_norm);
  k.gemm.backward_weight(stream, st.dqa_TQ, n1, b.params.q_a->grad);
}

}  // namespace

const AttentionCore kMlaCore = {forward, backward_input, backward_weight};

}  // namespace moe
