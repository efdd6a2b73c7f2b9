// The attention half of a block around its core: x1 = x0 + Wo core(norm(x0)), the core being gqa.cpp or mla.cpp.
// Not here: queries, keys and values.
#include <tuple>

#include "lib/model/linear.h"

namespace moe {
namespace {

const AttentionCore& core_of(const BlockContext& b) { return b.config.is_mla() ? kMlaCore : kGqaCore; }

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
          .num_kv_heads = config.is_mla() ? config.num_heads : config.num_kv_heads,
          .head_dim = config.qk_dim(),
          .value_dim = config.value_dim(),
          .scale = config.attention_scale(),
          .window = window};
}

RopeShape BlockContext::rope_shape(int head_dim, int first) const {
  return {.head_dim = head_dim, .first = first, .interleaved = config.rope_interleaved};
}

void attention_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  norm1_forward(a);
  core_of(b).forward(a);
  copy_tokens(b.env, s.x0_TD, s.x1_TD);
  linear_forward(b.env, s.o_TC, *b.params.o, b.params.o_bias, s.x1_TD, Store::kAdd);
}

void attention_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  BlockStash& st = b.stash;
  copy_tokens(b.env, a.dx_TD, st.dx1_TD);
  k.gemm.backward_input(stream, st.dx1_TD, b.params.o->weight, b.work.do_TC, Store::kAssign);
  core_of(b).backward_input(a);
  k.rmsnorm.backward_input(stream, st.dn1_TD, s.x0_TD, b.params.attn_norm->weight, 1, s.rstd1_T.data(), a.dx_TD,
                           Store::kAdd);
}

void attention_backward_weight(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const BlockStash& st = b.stash;
  if (b.recompute == Recompute::kLight) norm1_forward(a);
  linear_backward_weight(b.env, st.dx1_TD, s.o_TC, *b.params.o, b.params.o_bias);
  core_of(b).backward_weight(a);
  k.rmsnorm.backward_weight(stream, st.dn1_TD, s.x0_TD, 1, s.rstd1_T.data(), b.params.attn_norm->grad.f32());
}

}  // namespace moe
