// The attention half of a block: x1 = x0 + Wo attention(rope(qknorm(q)), rope(qknorm(k)), v), [q k v] = Wqkv norm(x0).
#include <cmath>
#include <cstring>
#include <tuple>

#include "lib/model/block.h"

namespace moe {
namespace {

// Columns of queries, keys and values in the buffers of a block; with QK norm, queries and keys lie in a buffer of their
// own.
struct Heads {
  std::int64_t q, k;  // widths
  Mat q_k(Mat qkv, Mat qk) const { return (qk.data ? qk : qkv).slice_cols(0, q + k); }
  Mat v(Mat qkv) const { return qkv.slice_cols(q + k, k); }
};
Heads heads_of(const ModelConfig& c) {
  return {std::int64_t{c.num_heads} * c.head_dim, std::int64_t{c.num_kv_heads} * c.head_dim};
}

// Groups of one normalised vector: a head, or the whole projection.
int norm_groups(const ModelConfig& c, int heads) { return c.qk_norm == QkNorm::kHead ? heads : 1; }

void qk_norm_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const Heads h = heads_of(b.config);
  const RmsNormKernels& norm = b.env.kernels.rmsnorm;
  const float eps = b.config.norm_eps;
  norm.forward(b.env.stream, s.qkv_TC.slice_cols(0, h.q), b.params.q_norm->weight, norm_groups(b.config, b.config.num_heads),
               eps, s.qk_TC.slice_cols(0, h.q), s.rstd_q.data());
  norm.forward(b.env.stream, s.qkv_TC.slice_cols(h.q, h.k), b.params.k_norm->weight,
               norm_groups(b.config, b.config.num_kv_heads), eps, s.qk_TC.slice_cols(h.q, h.k), s.rstd_k.data());
}

// dqk -> the query and key columns of dqkv.
void qk_norm_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const Heads h = heads_of(b.config);
  const RmsNormKernels& norm = b.env.kernels.rmsnorm;
  BlockStash& st = b.stash;
  norm.backward_input(b.env.stream, st.dqk_TC.slice_cols(0, h.q), s.qkv_TC.slice_cols(0, h.q), b.params.q_norm->weight,
                      norm_groups(b.config, b.config.num_heads), s.rstd_q.data(), st.dqkv_TC.slice_cols(0, h.q),
                      Store::kAssign);
  norm.backward_input(b.env.stream, st.dqk_TC.slice_cols(h.q, h.k), s.qkv_TC.slice_cols(h.q, h.k), b.params.k_norm->weight,
                      norm_groups(b.config, b.config.num_kv_heads), s.rstd_k.data(), st.dqkv_TC.slice_cols(h.q, h.k),
                      Store::kAssign);
}

void qk_norm_backward_weight(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const Heads h = heads_of(b.config);
  const RmsNormKernels& norm = b.env.kernels.rmsnorm;
  norm.backward_weight(b.env.stream, b.stash.dqk_TC.slice_cols(0, h.q), s.qkv_TC.slice_cols(0, h.q),
                       norm_groups(b.config, b.config.num_heads), s.rstd_q.data(), b.params.q_norm->grad.f32());
  norm.backward_weight(b.env.stream, b.stash.dqk_TC.slice_cols(h.q, h.k), s.qkv_TC.slice_cols(h.q, h.k),
                       norm_groups(b.config, b.config.num_kv_heads), s.rstd_k.data(), b.params.k_norm->grad.f32());
}

void norm1_forward(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  b.env.kernels.rmsnorm.forward(b.env.stream, a.slot.x0_TD, b.params.attn_norm->weight, 1, b.config.norm_eps, a.slot.n1_TD,
                                a.slot.rstd1_T.data());
}

}  // namespace

AttentionShape BlockContext::attention_shape(const BatchShape& shape) const {
  return {.num_seqs = shape.num_seqs,
          .seq_len = shape.seq_len,
          .num_heads = config.num_heads,
          .num_kv_heads = config.num_kv_heads,
          .head_dim = config.head_dim,
          .value_dim = config.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(config.head_dim))};
}

void attention_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const Heads h = heads_of(b.config);
  norm1_forward(a);
  k.gemm.forward(stream, s.n1_TD, b.params.qkv->weight, s.qkv_TC, Store::kAssign);
  if (b.config.qk_norm != QkNorm::kNone) qk_norm_forward(a);
  const Mat qk = h.q_k(s.qkv_TC, s.qk_TC);
  k.rope.forward(stream, qk, b.config.head_dim, b.rope.pos_T, b.rope.cos_PS2.data(), b.rope.sin_PS2.data());
  k.attention.forward(stream, b.attention_shape(a.batch.shape), qk.slice_cols(0, h.q), qk.slice_cols(h.q, h.k),
                      h.v(s.qkv_TC), a.batch.doc_start_T, s.o_TC, s.lse_TH.data());
  std::memcpy(s.x1_TD.data, s.x0_TD.data, static_cast<std::size_t>(s.x0_TD.rows * s.x0_TD.cols) * size_of(s.x0_TD.dtype));
  k.gemm.forward(stream, s.o_TC, b.params.o->weight, s.x1_TD, Store::kAdd);
}

void attention_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const Heads h = heads_of(b.config);
  BlockStash& st = b.stash;
  std::memcpy(st.dx1_TD.data, a.dx_TD.data, static_cast<std::size_t>(a.dx_TD.rows * a.dx_TD.cols) * size_of(a.dx_TD.dtype));
  k.gemm.backward_input(stream, st.dx1_TD, b.params.o->weight, b.work.do_TC, Store::kAssign);
  const Mat qk = h.q_k(s.qkv_TC, s.qk_TC), dqk = h.q_k(st.dqkv_TC, st.dqk_TC);
  k.attention.backward(stream, b.attention_shape(a.batch.shape), qk.slice_cols(0, h.q), qk.slice_cols(h.q, h.k),
                       h.v(s.qkv_TC), s.o_TC, s.lse_TH.data(), a.batch.doc_start_T, b.work.do_TC, dqk.slice_cols(0, h.q),
                       dqk.slice_cols(h.q, h.k), h.v(st.dqkv_TC));
  k.rope.backward(stream, dqk, b.config.head_dim, b.rope.pos_T, b.rope.cos_PS2.data(), b.rope.sin_PS2.data());
  if (b.config.qk_norm != QkNorm::kNone) qk_norm_backward_input(a);
  k.gemm.backward_input(stream, st.dqkv_TC, b.params.qkv->weight, st.dn1_TD, Store::kAssign);
  k.rmsnorm.backward_input(stream, st.dn1_TD, s.x0_TD, b.params.attn_norm->weight, 1, s.rstd1_T.data(), a.dx_TD,
                           Store::kAdd);
}

void attention_backward_weight(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const BlockStash& st = b.stash;
  if (b.recompute == Recompute::kLight) norm1_forward(a);
  k.gemm.backward_weight(stream, st.dx1_TD, s.o_TC, b.params.o->grad);
  k.gemm.backward_weight(stream, st.dqkv_TC, s.n1_TD, b.params.qkv->grad);
  if (b.config.qk_norm != QkNorm::kNone) qk_norm_backward_weight(a);
  k.rmsnorm.backward_weight(stream, st.dn1_TD, s.x0_TD, 1, s.rstd1_T.data(), b.params.attn_norm->grad.f32());
}

}  // namespace moe
