// The saved state of one micro-batch in one block, and the memory that all blocks share.
// What is kept from forward to backward follows the recomputation policy; schedules never see it.
// F saves into a BlockSlot, I leaves in a BlockStash what W needs, BlockWork holds what nobody keeps.
#pragma once

#include <vector>

#include "lib/model/config.h"
#include "lib/tensor/arena.h"

namespace moe {

enum class Recompute : std::uint8_t {
  kNone,   // keep everything
  kLight,  // compute norms and SwiGLU outputs again: cheap, saves about a third
  kFull,   // keep the input of each block only and run its forward again: one third more work
};

// Routing decided once per micro-batch; dispatch and combine, forward and backward, read it.
struct RoutePlan {
  std::int64_t num_rows = 0;  // R: routed rows that are not dropped
  std::int64_t num_dropped = 0;
  std::span<std::int64_t> psum_rows_E1;
  std::span<std::int32_t> slot2row_N, row2slot_N;  // of row2slot_N the first num_rows count
  std::span<const std::int32_t> row2slot_R() const { return row2slot_N.first(static_cast<std::size_t>(num_rows)); }
};

struct BlockSlot {
  Mat x0_TD, x1_TD;  // residual stream before attention, after attention
  Mat n1_TD, qkv_TC, qk_TC, o_TC, n2_TD;
  std::span<float> rstd1_T, rstd_q, rstd_k, lse_TH, rstd2_T;
  std::span<float> logits_TE, scores_TE, gate_TK;
  std::span<std::int32_t> idx_TK;
  RoutePlan plan;
  std::span<float> gate_R;
  Mat x_RD, gu_R2F, h_RF;  // routed experts
  Mat gu_T2F, h_TF;        // shared experts, or the dense SwiGLU
};

// Gradients with respect to the outputs of the linear maps, kept from I to W.
struct BlockStash {
  Mat dx2_TD, dx1_TD, dn2_TD, dn1_TD, dqkv_TC, dqk_TC, dy_RD, dgu_R2F, dgu_T2F;
  std::span<float> dlogits_TE;
};

// Shared by all blocks: nothing here outlives a segment, but for y_RD between neighbouring segments.
struct BlockWork {
  Mat y_RD;  // expert outputs on their way back; gradients of their inputs
  Mat dh_RF;
  Mat dh_TF;
  Mat do_TC;
  std::span<float> dgate_R, dgate_TK, f_GE;
  std::span<std::int64_t> counts_GE;
};

// Sizes of one micro-batch.
struct BatchShape {
  int num_seqs = 1, seq_len = 1;
  std::int64_t num_tokens() const { return std::int64_t{num_seqs} * seq_len; }
};

BlockStash take_stash(Arena& arena, const ModelConfig& config, const BatchShape& shape, DType dtype);
BlockWork take_work(Arena& arena, const ModelConfig& config, const BatchShape& shape, DType dtype);
// One slot per block. `training` false: all blocks share one slot (forward only).
std::vector<BlockSlot> take_slots(Arena& arena, const ModelConfig& config, const BatchShape& shape, DType dtype,
                                  Recompute recompute, bool training);

}  // namespace moe
