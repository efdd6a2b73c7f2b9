// Attention forward on CUDA with bf16 matrix units, as FlashAttention-2 (Dao 2023): four or eight warps, each with 16 kM
// queries whose scores, weights and sums stay in registers; tiles of keys and values come by late copies, the next while one
// is in use. The running softmax counts in units of ln 2. Weights are rounded to bf16 for their product with the values;
// their sum is of what was not rounded. Not here: wider heads, other dtypes (attention_plain.cu).
#include "kernels/cuda_attention_mma.h"

namespace moe::cuda {
namespace {

constexpr int kKeys = 64;

template <int kD, int kV, int kM, int kWarps>
struct Layout {
  static constexpr int kThreads = kWarps * kWarp;
  static constexpr int kRows = 16 * kM * kWarps;
  static constexpr int kQuery = kTileElements<kRows, kD>, kKey = kTileElements<kKeys, kD>, kValue = kTileElements<kKeys, kV>;
  static constexpr std::size_t kBytes = sizeof(BF16) * (kQuery + 2 * (kKey + kValue));
};

template <int kD, int kV, int kM, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp, 1) forward_kernel(AttentionProblem p, ForwardOperands a) {
  using L = Layout<kD, kV, kM, kWarps>;
  BF16 *const query_tile = shared_of<BF16>(), *const stages = query_tile + L::kQuery;
  const Task task = p.task(blockIdx.x);
  const int s = task.seq, h = task.head, kv = h / p.group, i0 = (p.num_tiles - 1 - task.tile) * L::kRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp, warp_row = static_cast<int>(threadIdx.x) / kWarp * 16 * kM;
  const i64 sequence = i64{s} * p.seq_len;
  const int end = min(i0 + L::kRows, p.seq_len), begin = p.first_key(s, i0) / kKeys * kKeys;
  const auto load_stage = [&](int j0, int stage) {
    BF16* const to = stages + stage * (L::kKey + L::kValue);
    if (j0 < end) {
      load_tile<kKeys, kD, L::kThreads>(to, a.k.bf16(sequence + j0, kv), a.k.stride, p.seq_len - j0, a.k.width);
      load_tile<kKeys, kV, L::kThreads>(to + L::kKey, a.v.bf16(sequence + j0, kv), a.v.stride, p.seq_len - j0, a.v.width);
    }
    copy_async_commit();
  };
  load_tile<L::kRows, kD, L::kThreads>(query_tile, a.q.bf16(sequence + i0, h), a.q.stride, p.seq_len - i0, a.q.width);
  load_stage(begin, 0);

  RunningRows rows[kM];
#pragma unroll
  for (int m = 0; m < kM; ++m) rows[m] = first_rows(p, h);
  Accumulators<kM, kV> out = {};
  const int warp_begin = i0 + warp_row, warp_end = warp_begin + 16 * kM;
  const int warp_first = p.first_key(s, warp_begin), warp_last_first = p.first_key(s, warp_end - 1);
  for (int j0 = begin, stage = 0; j0 < end; j0 += kKeys, stage ^= 1) {
    load_stage(j0 + kKeys, stage ^ 1);
    copy_async_wait<1>();
    __syncthreads();
    if (j0 < warp_end && j0 + kKeys > warp_first) {
      const BF16* const key_tile = stages + stage * (L::kKey + L::kValue);
      Accumulators<kM, kKeys> scores = {};
      add_a_bt<kM, kKeys, kD>(scores, query_tile + warp_row * kPitch<kD>, key_tile);
      const bool hides = j0 + kKeys - 1 > warp_begin || j0 < warp_last_first;
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        if (hides) hide(SeenKeys(p, s, warp_begin + 16 * m + lane / 4), j0 + lane % 4 * 2, minus_infinity(), scores[m]);
        update(rows[m], scores[m], p.scale * kLog2E);
        shrink(rows[m], out[m]);
      }
      add_w_b<kM, kV, kKeys>(out, scores, key_tile + L::kKey);
    }
    __syncthreads();  // the stage is free
  }
#pragma unroll
  for (int m = 0; m < kM; ++m) store_output(p, a, s, h, warp_begin + 16 * m + lane / 4, rows[m], out[m]);
}

template <int kD, int kV, int kM, int kWarps>
void run(Queue& q, const AttentionProblem& problem, const ForwardOperands& a) {
  using L = Layout<kD, kV, kM, kWarps>;
  const AttentionProblem p = problem.tiled(L::kRows, problem.num_heads, 2 * (a.k.width + a.v.width));
  launch(q, forward_kernel<kD, kV, kM, kWarps>, dim3(p.num_tasks()), L::kThreads, L::kBytes, p, a);
}

}  // namespace

bool attention_mma_takes(int head_dim, int value_dim) { return head_dim <= 192 && value_dim <= 128; }

void attention_forward_mma(Queue& q, const AttentionProblem& p, const ForwardOperands& a) {
  const int widest = std::max(a.q.width, a.v.width);
  if (widest <= 32) return run<32, 32, 1, 4>(q, p, a);
  if (widest <= 64) return run<64, 64, 2, 4>(q, p, a);
  if (widest <= 128) return run<128, 128, 1, 8>(q, p, a);
  run<192, 128, 1, 8>(q, p, a);
}

}  // namespace moe::cuda
