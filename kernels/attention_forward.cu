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

// The running softmax of a thread's rows 16 m + lane / 4 + 8 r of the warp's.
template <int kM>
struct Rows {
  float largest[kM][2], sum[kM][2];
};

// Scores of keys that a query does not see become minus infinity. query, key: of the thread's first score.
template <int kM>
__device__ void hide(const AttentionProblem& p, int s, int query, int key, Accumulators<kM, kKeys>& scores) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = query + 16 * m + 8 * r, first = p.first_key(s, i) - key, last = i - key;
#pragma unroll
      for (int n = 0; n < kKeys; n += 8)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          if (n + c < first || n + c > last) scores[m][n / 8][2 * r + c] = minus_infinity();
    }
}

// Scores become weights, 2^(scale2 score - largest); the rows' largest and sum, and out, follow.
template <int kM, int kV>
__device__ void update(Rows<kM>& rows, Accumulators<kM, kKeys>& scores, Accumulators<kM, kV>& out, float scale2) {
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = minus_infinity();
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) most = fmaxf(most, fmaxf(scores[m][n][2 * r], scores[m][n][2 * r + 1]));
      const float now = fmaxf(rows.largest[m][r], quad_max(most) * scale2), base = now == minus_infinity() ? 0.0f : now;
      const float shrink = exp2_fast(rows.largest[m][r] - base);
      float total = 0;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n)
#pragma unroll
        for (int c = 0; c < 2; ++c)
          total += scores[m][n][2 * r + c] = exp2_fast(__fmaf_rn(scores[m][n][2 * r + c], scale2, -base));
      rows.largest[m][r] = now;
      rows.sum[m][r] = rows.sum[m][r] * shrink + total;
#pragma unroll
      for (int n = 0; n < kV / 8; ++n) out[m][n][2 * r] *= shrink, out[m][n][2 * r + 1] *= shrink;
    }
}

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

  Rows<kM> rows;
  Accumulators<kM, kV> out = {};
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows.largest[m][r] = p.sinks_H != nullptr ? p.sinks_H[h] * kLog2E : minus_infinity();
      rows.sum[m][r] = p.sinks_H != nullptr && lane % 4 == 0 ? 1.0f : 0.0f;  // a lane has the sum of its own columns
    }
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
      if (j0 + kKeys - 1 > warp_begin || j0 < warp_last_first)
        hide<kM>(p, s, warp_begin + lane / 4, j0 + lane % 4 * 2, scores);
      update<kM, kV>(rows, scores, out, p.scale * kLog2E);
      add_w_b<kM, kV, kKeys>(out, scores, key_tile + L::kKey);
    }
    __syncthreads();  // the stage is free
  }
#pragma unroll
  for (int m = 0; m < kM; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = quad_sum(rows.sum[m][r]);
      const int query = warp_begin + lane / 4 + 16 * m + 8 * r;
      const i64 row = sequence + query;
      if (query >= p.seq_len) continue;
      if (lane % 4 == 0) a.lse_TH[row * p.num_heads + h] = rows.largest[m][r] * kLn2 + logf(sum);
      store_row<kV>(a.o.bf16(row, h), a.o.width, r, 1.0f / sum, out[m]);
    }
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
