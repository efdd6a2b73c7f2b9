// The saved state of one micro-batch in one block, and the memory that all blocks share.
// What is kept from forward to backward follows the recomputation policy; schedules never see it.
// F saves into a BlockSlot, I leaves in a BlockStash what W needs, BlockWork holds what nobody keeps.
#pragma once

#include <vector>

#include "lib/comm/dispatch.h"
#include "lib/model/config.h"
#include "lib/model/mla_slot.h"
#include "lib/tensor/arena.h"

namespace moe {

enum class Recompute : std::uint8_t {
  kNone,   // keep everything
  kLight,  // compute norms, SwiGLU outputs and the up-projections of latent attention again: cheap, saves about a third
  kFull,   // keep the input of each block only and run its forward again: one third more work
};

// Routing decided once per micro-batch; dispatch and combine, forward and backward, read it. Rows of tokens of this rank,
// and rows that its experts work on; the same ones where all experts are here.
struct RoutePlan {
  std::int64_t num_kept = 0;                       // slots of tokens here that are not dropped
  std::int64_t num_dropped = 0;                    // of N
  std::span<std::int64_t> psum_rows_E1;            // slots of tokens here, by expert
  std::span<std::int32_t> slot2row_N, row2slot_N;  // of row2slot_N the first num_kept count
  std::span<const std::int32_t> row2slot() const { return row2slot_N.first(static_cast<std::size_t>(num_kept)); }

  std::int64_t num_rows = 0;                     // R: rows of the experts here
  std::span<const std::int64_t> psum_rows_L1{};  // first row of each expert here
  std::span<std::int64_t> psum_rows_room{};      // where it is put if the route made it
  Route* route = nullptr;                        // nullptr: all experts are here
};

struct BlockSlot {
  Mat x0_TD, x1_TD;  // residual stream before attention, after attention
  Mat n1_TD, qkv_TC, qk_TC, o_TC, n2_TD;
  MlaSlot mla;  // instead of qkv and qk
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
  MlaStash mla;  // instead of dqkv and dqk
  std::span<float> dlogits_TE;
  std::span<float> dsinks_H;  // a gradient of parameters, which W adds
};

// Shared by all blocks: nothing here outlives a segment, but for y_RD between neighbouring segments.
struct BlockWork {
  Mat y_RD;  // expert outputs on their way back; gradients of their inputs
  Mat dh_RF;
  Mat dh_TF;
  Mat do_TC;
  MlaWork mla;
  std::span<float> dgate_R, dgate_TK, f_GE;
  std::span<std::int64_t> counts_GE;
  std::span<float> sinks_H;  // as fp32
};

// Sizes of one micro-batch.
struct BatchShape {
  int num_seqs = 0, seq_len = 1;
  std::int64_t num_tokens() const { return std::int64_t{num_seqs} * seq_len; }
};

// Room for a micro-batch of a shape, or smaller, and for the rows that the experts here may get.
struct SlotRoom {
  const ModelConfig& config;
  BatchShape shape;
  DType dtype;
  std::int64_t max_rows;
  int num_experts_here = 0;
  int num_modules = 0;     // of multi-token prediction, behind the last block
  bool generates = false;  // over a cache

  int num_blocks() const { return config.num_layers + num_modules; }
};
// Where the memory is taken. How many rows the experts here get is known when they come, in the worst case many times those
// of balanced routing: theirs may be an arena on demand (take_rows() of block.cpp commits it).
struct SlotArenas {
  Arena &tokens, &rows;
};
BlockStash take_stash(const SlotArenas& arenas, const SlotRoom& room);
BlockWork take_work(const SlotArenas& arenas, const SlotRoom& room);
// One slot per block. `training` false: all blocks share one slot (forward only); the first keeps its input for modules.
std::vector<BlockSlot> take_slots(const SlotArenas& arenas, const SlotRoom& room, Recompute recompute, bool training);

// The same memory, seen by a micro-batch of num_tokens <= the room's tokens.
BlockSlot fitted(BlockSlot slot, std::int64_t room_tokens, std::int64_t num_tokens);
BlockStash fitted(BlockStash stash, std::int64_t room_tokens, std::int64_t num_tokens);
BlockWork fitted(BlockWork work, std::int64_t room_tokens, std::int64_t num_tokens);

}  // namespace moe
