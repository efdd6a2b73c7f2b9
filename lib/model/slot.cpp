#include "lib/model/slot.h"

#include <algorithm>

namespace moe {
namespace {

// Widest SwiGLU outside the routed experts: shared experts or the dense blocks.
std::int64_t max_plain_ffn(const ModelConfig& c) {
  const std::int64_t shared = c.num_moe_layers() > 0 ? std::int64_t{c.num_shared_experts} * c.expert_ffn : 0;
  return std::max<std::int64_t>(shared, c.num_dense_layers > 0 ? c.dense_ffn : 0);
}

struct Taker {
  const SlotArenas& arenas;
  const SlotRoom& room;
  Arena& arena = arenas.tokens;
  const ModelConfig& c = room.config;
  DType dtype = room.dtype;
  std::int64_t T = room.shape.num_tokens(), D = c.d_model, N = T * c.top_k, R = c.num_moe_layers() > 0 ? room.max_rows : 0;

  Mat tokens(std::int64_t cols) { return arena.matrix(dtype, T, cols); }
  // Operands of matrix products that nothing copies as a whole.
  Mat padded_tokens(std::int64_t cols) { return arena.padded_matrix(dtype, T, cols); }
  Mat padded_rows(std::int64_t cols) { return arenas.rows.padded_matrix(dtype, R, cols); }
  std::span<float> rows() { return arenas.rows.vector<float>(R); }
  MlaTaker mla() const { return {arena, c, dtype, T}; }

  // What the light policy computes again.
  void take_cheap(BlockSlot& s) {
    s.n1_TD = padded_tokens(D);
    s.n2_TD = padded_tokens(D);
    s.h_RF = padded_rows(c.expert_ffn);
    s.h_TF = padded_tokens(max_plain_ffn(c));
    if (c.is_mla()) mla().take_cheap(s.mla);
  }
  void take_attention(BlockSlot& s) {
    s.x1_TD = tokens(D);
    s.o_TC = padded_tokens(std::int64_t{c.num_heads} * c.value_dim());
    s.rstd1_T = arena.vector<float>(T);
    s.rstd2_T = arena.vector<float>(T);
    s.lse_TH = arena.vector<float>(T * c.num_heads);
    if (c.is_mla()) return mla().take_kept(s.mla);
    s.qkv_TC = padded_tokens(c.qkv_width());
    if (c.qk_norm == QkNorm::kNone) return;
    s.qk_TC = padded_tokens(std::int64_t{c.num_heads + c.num_kv_heads} * c.head_dim);
    s.rstd_q = arena.vector<float>(T * c.num_heads);
    s.rstd_k = arena.vector<float>(T * c.num_kv_heads);
  }
  void take_experts(BlockSlot& s) {
    s.logits_TE = arena.vector<float>(T * c.num_experts);
    s.scores_TE = arena.vector<float>(T * c.num_experts);
    s.gate_TK = arena.vector<float>(N);
    s.idx_TK = arena.vector<std::int32_t>(N);
    s.plan.psum_rows_E1 = arena.vector<std::int64_t>(c.num_experts + 1);
    s.plan.slot2row_N = arena.vector<std::int32_t>(N);
    s.plan.row2slot_N = arena.vector<std::int32_t>(N);
    if (arena.device().kind != DeviceKind::kCpu)
      s.plan.psum_rows_room = arena.vector<std::int64_t>(room.num_experts_here + 1);
    s.gate_R = rows();
    s.x_RD = padded_rows(D);
    s.gu_R2F = padded_rows(2 * c.expert_ffn);
  }
  void take_block(BlockSlot& s, bool dense) {
    take_attention(s);
    const std::int64_t plain = dense ? c.dense_ffn : std::int64_t{c.num_shared_experts} * c.expert_ffn;
    s.gu_T2F = padded_tokens(2 * plain);
    if (!dense) take_experts(s);
  }
};

void copy_cheap(const BlockSlot& from, BlockSlot& to, const ModelConfig& c) {
  to.n1_TD = from.n1_TD;
  to.n2_TD = from.n2_TD;
  to.h_RF = from.h_RF;
  to.h_TF = from.h_TF;
  if (c.is_mla()) copy_cheap(from.mla, to.mla, c);
}

}  // namespace

BlockStash take_stash(const SlotArenas& arenas, const SlotRoom& room) {
  Taker take{arenas, room};
  Arena& arena = arenas.tokens;
  const ModelConfig& c = room.config;
  BlockStash s;
  s.dx2_TD = take.tokens(take.D);
  s.dx1_TD = take.tokens(take.D);
  s.dn2_TD = take.padded_tokens(take.D);
  s.dn1_TD = take.padded_tokens(take.D);
  if (c.is_mla())
    s.mla = take.mla().take_stash();
  else
    s.dqkv_TC = take.padded_tokens(c.qkv_width());
  if (c.qk_norm != QkNorm::kNone) s.dqk_TC = take.padded_tokens(std::int64_t{c.num_heads + c.num_kv_heads} * c.head_dim);
  s.dy_RD = take.padded_rows(take.D);
  s.dgu_R2F = take.padded_rows(2 * c.expert_ffn);
  s.dgu_T2F = take.padded_tokens(2 * max_plain_ffn(c));
  s.dlogits_TE = arena.vector<float>(take.T * c.num_experts);
  if (c.attention_sinks) s.dsinks_H = arena.vector<float>(c.num_heads);
  return s;
}

BlockWork take_work(const SlotArenas& arenas, const SlotRoom& room) {
  Taker take{arenas, room};
  Arena& arena = arenas.tokens;
  const ModelConfig& c = room.config;
  BlockWork w;
  w.y_RD = take.padded_rows(take.D);
  w.dh_RF = take.padded_rows(c.expert_ffn);
  w.dh_TF = take.padded_tokens(max_plain_ffn(c));
  w.do_TC = take.padded_tokens(std::int64_t{c.num_heads} * c.value_dim());
  if (c.is_mla()) w.mla = take.mla().take_work(room.generates);
  w.dgate_R = take.rows();
  w.dgate_TK = arena.vector<float>(take.N);
  w.f_GE = arena.vector<float>(std::int64_t{room.shape.num_seqs} * c.num_experts);
  w.counts_GE = arena.vector<std::int64_t>(std::int64_t{room.shape.num_seqs} * c.num_experts);
  if (c.attention_sinks) w.sinks_H = arena.vector<float>(c.num_heads);
  return w;
}

std::vector<BlockSlot> take_slots(const SlotArenas& arenas, const SlotRoom& room, Recompute recompute, bool training) {
  Taker take{arenas, room};
  const ModelConfig& c = room.config;
  const bool share_all = !training || recompute == Recompute::kFull;
  const bool share_cheap = share_all || recompute == Recompute::kLight;
  BlockSlot shared, shared_dense, shared_moe;
  if (share_cheap) take.take_cheap(shared);
  shared_dense = shared_moe = shared;
  if (share_all && c.num_dense_layers > 0) take.take_block(shared_dense, true);
  if (share_all && c.num_moe_layers() > 0) take.take_block(shared_moe, false);

  const int num_own = room.num_modules > 0 ? 3 : 2;  // inputs; later blocks take turns in the last two
  std::vector<BlockSlot> slots(static_cast<std::size_t>(room.num_blocks()));
  for (int i = 0; i < room.num_blocks(); ++i) {
    BlockSlot& s = slots[static_cast<std::size_t>(i)];
    if (share_all) {
      s = c.is_dense_layer(i) ? shared_dense : shared_moe;
    } else {
      if (share_cheap)
        copy_cheap(shared, s, c);
      else
        take.take_cheap(s);
      take.take_block(s, c.is_dense_layer(i));
    }
    s.x0_TD = training || i < num_own ? take.tokens(take.D) : slots[static_cast<std::size_t>(i - 2)].x0_TD;
  }
  return slots;
}

namespace {

// Views by token of a room for `room_tokens`: rows of matrices, and vectors of a fixed number of elements a token.
struct Fit {
  std::int64_t room_tokens, num_tokens;
  void operator()(Mat& m) const {
    if (m.rows > 0) m.rows = num_tokens;
  }
  template <class T>
  void operator()(std::span<T>& v) const {
    if (room_tokens > 0)
      v = v.first(v.size() / static_cast<std::size_t>(room_tokens) * static_cast<std::size_t>(num_tokens));
  }
  template <class... Views>
  void all(Views&... views) const {
    ((*this)(views), ...);
  }
};

}  // namespace

BlockSlot fitted(BlockSlot s, std::int64_t room_tokens, std::int64_t num_tokens) {
  const Fit fit{room_tokens, num_tokens};
  fit.all(s.x0_TD, s.x1_TD, s.n1_TD, s.qkv_TC, s.qk_TC, s.o_TC, s.n2_TD, s.gu_T2F, s.h_TF);
  fit.all(s.rstd1_T, s.rstd_q, s.rstd_k, s.lse_TH, s.rstd2_T, s.logits_TE, s.scores_TE, s.gate_TK, s.idx_TK);
  fit.all(s.plan.slot2row_N, s.plan.row2slot_N);
  fit_all(s.mla, fit);
  return s;
}

BlockStash fitted(BlockStash s, std::int64_t room_tokens, std::int64_t num_tokens) {
  const Fit fit{room_tokens, num_tokens};
  fit.all(s.dx2_TD, s.dx1_TD, s.dn2_TD, s.dn1_TD, s.dqkv_TC, s.dqk_TC, s.dgu_T2F, s.dlogits_TE);
  fit_all(s.mla, fit);
  return s;
}

BlockWork fitted(BlockWork w, std::int64_t room_tokens, std::int64_t num_tokens) {
  const Fit fit{room_tokens, num_tokens};
  fit.all(w.dh_TF, w.do_TC, w.dgate_TK);
  fit_all(w.mla, fit);
  return w;
}

}  // namespace moe
