// Grouped-query attention between the block's norm and its output map: o = attention(rope(qknorm(q)), rope(qknorm(k)), v),
// [q k v] = Wqkv n1 (+ bias); heads may have sinks, layers a window. Not here: the norm, Wo and the residual stream
// (attention.cpp), latent attention (mla.cpp).
#include <tuple>

#include "lib/model/linear.h"

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

void rope(const SegmentArgs& a, Mat x, decltype(RopeKernels::forward) turn) {
  const BlockContext& b = a.block;
  turn(b.env.stream, x, b.rope_shape(b.config.head_dim, 0), b.rope.pos_T, b.rope.cos_PR2.data(), b.rope.sin_PR2.data());
}

// Attention with the sinks of this block.
AttentionShape shape_of(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  AttentionShape shape = b.attention_shape(a.batch.shape);
  if (!b.params.sinks) return shape;
  const Mat& sinks = b.params.sinks->weight;
  b.env.kernels.elements.copy(b.env.stream, sinks, mat(b.work.sinks_H.data(), sinks.rows, sinks.cols), Store::kAssign);
  shape.sinks_H = b.work.sinks_H.data();
  return shape;
}

void forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const Heads h = heads_of(b.config);
  linear_forward(b.env, s.n1_TD, *b.params.qkv, b.params.qkv_bias, s.qkv_TC, Store::kAssign);
  if (b.config.qk_norm != QkNorm::kNone) qk_norm_forward(a);
  const Mat qk = h.q_k(s.qkv_TC, s.qk_TC);
  rope(a, qk, k.rope.forward);
  if (a.batch.cache) return gqa_over_cache(a, shape_of(a), qk.slice_cols(0, h.q), qk.slice_cols(h.q, h.k), h.v(s.qkv_TC));
  k.attention.forward(stream, shape_of(a), qk.slice_cols(0, h.q), qk.slice_cols(h.q, h.k), h.v(s.qkv_TC),
                      a.batch.doc_start_T, s.o_TC, s.lse_TH.data());
}

void backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const Heads h = heads_of(b.config);
  BlockStash& st = b.stash;
  const Mat qk = h.q_k(s.qkv_TC, s.qk_TC), dqk = h.q_k(st.dqkv_TC, st.dqk_TC);
  stream.zero(st.dsinks_H.data(), st.dsinks_H.size_bytes());
  k.attention.backward(stream, shape_of(a), qk.slice_cols(0, h.q), qk.slice_cols(h.q, h.k), h.v(s.qkv_TC), s.o_TC,
                       s.lse_TH.data(), a.batch.doc_start_T, b.work.do_TC, dqk.slice_cols(0, h.q), dqk.slice_cols(h.q, h.k),
                       h.v(st.dqkv_TC), st.dsinks_H.data());
  rope(a, dqk, k.rope.backward);
  if (b.config.qk_norm != QkNorm::kNone) qk_norm_backward_input(a);
  k.gemm.backward_input(stream, st.dqkv_TC, b.params.qkv->weight, st.dn1_TD, Store::kAssign);
}

void backward_weight(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  linear_backward_weight(b.env, b.stash.dqkv_TC, a.slot.n1_TD, *b.params.qkv, b.params.qkv_bias);
  if (b.params.sinks) {
    const Mat grad = b.params.sinks->grad;
    b.env.kernels.elements.copy(b.env.stream, mat(b.stash.dsinks_H.data(), grad.rows, grad.cols), grad, Store::kAdd);
  }
  if (b.config.qk_norm != QkNorm::kNone) qk_norm_backward_weight(a);
}

}  // namespace

const AttentionCore kGqaCore = {forward, backward_input, backward_weight};

}  // namespace moe
