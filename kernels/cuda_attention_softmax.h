// The running softmax of attention in registers, as both kinds of matrix units lay scores out: a thread has kN / 2 of the
// 16 x kN scores of its warp; element i is row lane / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (lane % 4) + i % 2. Counts are
// in units of ln 2. Not here: products (cuda_attention_mma.h, attention_hopper.cu).
#pragma once

#include "kernels/cuda_attention.h"
#include "kernels/cuda_mma.h"

namespace moe::cuda {

// Over the four lanes of a row.
__device__ inline float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 1));
  return fmaxf(v, __shfl_xor_sync(0xffffffffu, v, 2));
}
__device__ inline float quad_sum(float v) {
  v += __shfl_xor_sync(0xffffffffu, v, 1);
  return v + __shfl_xor_sync(0xffffffffu, v, 2);
}

// Of a thread's two rows: the largest score so far, the sum of what this thread had, and the factor on earlier sums.
struct RunningRows {
  float largest[2], sum[2], shrink[2];
};
// The sink of head h is a score without a value.
__device__ inline RunningRows first_rows(const AttentionProblem& p, int h) {
  const float largest = p.sinks_H != nullptr ? p.sinks_H[h] * kLog2E : minus_infinity();
  const float sum = p.sinks_H != nullptr && threadIdx.x % 4 == 0 ? 1.0f : 0.0f;
  return {{largest, largest}, {sum, sum}, {1, 1}};
}

// The keys that a thread's two queries see: row r those from first[r] to query + 8 r.
struct SeenKeys {
  int query, first[2];
  __device__ SeenKeys(const AttentionProblem& p, int s, int i) : query(i), first{p.first_key(s, i), p.first_key(s, i + 8)} {}
};
// Scores of other keys become `hidden`. key: of the thread's first score.
template <int kCount>
__device__ inline void hide(const SeenKeys& seen, int key, float hidden, float (&scores)[kCount]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int first = seen.first[r] - key, last = seen.query + 8 * r - key;
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c)
        if (8 * n + c < first || 8 * n + c > last) scores[4 * n + 2 * r + c] = hidden;
  }
}

// Scores become weights, 2^(scale2 score - largest), and the rows follow.
template <int kCount>
__device__ inline void update(RunningRows& rows, float (&scores)[kCount], float scale2) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float most = minus_infinity();
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n) most = fmaxf(most, fmaxf(scores[4 * n + 2 * r], scores[4 * n + 2 * r + 1]));
    const float now = fmaxf(rows.largest[r], quad_max(most) * scale2), base = now == minus_infinity() ? 0.0f : now;
    rows.shrink[r] = exp2_fast(rows.largest[r] - base);
    rows.largest[r] = now;
    float total = 0;
#pragma unroll
    for (int n = 0; n < kCount / 4; ++n)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        float& score = scores[4 * n + 2 * r + c];
        total += score = exp2_fast(__fmaf_rn(score, scale2, -base));
      }
    rows.sum[r] = rows.sum[r] * rows.shrink[r] + total;
  }
}

template <int kCount>
__device__ inline void shrink(const RunningRows& rows, float (&out)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) out[i] *= rows.shrink[i / 2 % 2];
}

// Sixteen columns of scores as the left operand of a product.
template <int kCount>
__device__ inline void pack_columns(unsigned (&a)[4], const float (&scores)[kCount], int first) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack_bf16(scores[first / 2 + 2 * i], scores[first / 2 + 2 * i + 1]);
}

// Lane l of four gets the l-th elements of all four, in their order.
__device__ inline void transpose_quad(unsigned (&v)[4]) {
#pragma unroll
  for (int step = 1; step < 4; step *= 2) {
    const bool high = (threadIdx.x & static_cast<unsigned>(step)) != 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      const unsigned other = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i + step], step);
      (high ? v[i] : v[i + step]) = other;
    }
  }
}
// Row r (0 or 1: 8 below) of a thread's accumulators, rounded, if it is a real one: to[column], columns below width, a
// multiple of 8, in pieces of 16 bytes. All lanes call it.
template <int kCount>
__device__ inline void store_row(BF16* to, bool real, int width, int r, float factor, const float (&acc)[kCount]) {
#pragma unroll
  for (int n = 0; n < kCount / 4; n += 4) {
    unsigned v[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = pack_bf16(acc[4 * (n + i) + 2 * r] * factor, acc[4 * (n + i) + 2 * r + 1] * factor);
    transpose_quad(v);
    const int col = 8 * (n + static_cast<int>(threadIdx.x) % 4);
    if (real && col < width) *reinterpret_cast<uint4*>(to + col) = make_uint4(v[0], v[1], v[2], v[3]);
  }
}

// The end of a forward: lse and output of the rows of this thread, the first of which is `query`.
template <int kCount>
__device__ inline void store_output(const AttentionProblem& p, const ForwardOperands& a, int s, int h, int query,
                                    const RunningRows& rows, const float (&out)[kCount]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = quad_sum(rows.sum[r]);
    const i64 row = i64{s} * p.seq_len + query + 8 * r;
    const bool real = query + 8 * r < p.seq_len;
    if (real && threadIdx.x % 4 == 0) a.lse_TH[row * p.num_heads + h] = rows.largest[r] * kLn2 + logf(sum);
    store_row(a.o.bf16(row, h), real, a.o.width, r, 1.0f / sum, out);
  }
}

}  // namespace moe::cuda
