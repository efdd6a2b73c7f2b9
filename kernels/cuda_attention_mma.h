// Tile products of attention with mma.m16n8k16 in bf16, and the tiles in shared memory that they read: rows padded by 16
// bytes, so that the 8 rows of an ldmatrix lie in different banks. Fragments: cuda_mma.h.
// Not here: the softmax (attention_forward.cu), its derivative (attention_backward.cu).
#pragma once

#include "kernels/cuda_attention_softmax.h"

namespace moe::cuda {

template <int kCols>
inline constexpr int kPitch = kCols + 8;
template <int kRows, int kCols>
inline constexpr int kTileElements = kRows* kPitch<kCols>;

// A warp's 16 kM rows and kN columns (cuda_attention_softmax.h).
template <int kM, int kN>
using Accumulators = float[kM][kN / 2];

// kRows rows of kCols columns, late (copy_async): zeros from row `num_rows` and column `width` on.
template <int kRows, int kCols, int kThreads>
__device__ inline void load_tile(BF16* to, const BF16* from, i64 stride, int num_rows, int width) {
  constexpr int kChunks = kCols / 8;
#pragma unroll 1  // else all addresses stay in registers
  for (int c = static_cast<int>(threadIdx.x); c < kRows * kChunks; c += kThreads) {
    const int row = c / kChunks, col = c % kChunks * 8;
    const bool real = row < num_rows && col < width;
    copy_async<16>(to + row * kPitch<kCols> + col, real ? from + row * stride + col : from, real);
  }
}

// acc += A B^T, A [16 kM, kK] and B [kN, kK] tiles.
template <int kM, int kN, int kK>
__device__ inline void add_a_bt(Accumulators<kM, kN>& acc, const BF16* a, const BF16* b) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  a += lane % 16 * kPitch<kK> + lane / 16 * 8;
  b += (lane % 8 + lane / 16 * 8) * kPitch<kK> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    unsigned fa[kM][4], fb[4];
#pragma unroll
    for (int m = 0; m < kM; ++m) ldmatrix_x4(fa[m], a + 16 * m * kPitch<kK> + k);
#pragma unroll
    for (int n = 0; n < kN; n += 16) {
      ldmatrix_x4(fb, b + n * kPitch<kK> + k);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(acc[m] + n / 2, fa[m], fb[0], fb[1]);
        mma_bf16(acc[m] + n / 2 + 4, fa[m], fb[2], fb[3]);
      }
    }
  }
}

// acc += W B, W [16 kM, kK] weights that lie as accumulators and are rounded to bf16, B [kK, kN] a tile.
template <int kM, int kN, int kK>
__device__ inline void add_w_b(Accumulators<kM, kN>& acc, const Accumulators<kM, kK>& w, const BF16* b) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  b += lane % 16 * kPitch<kN> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kK; k += 16) {
    unsigned fw[kM][4], fb[4];
#pragma unroll
    for (int m = 0; m < kM; ++m) pack_columns(fw[m], w[m], k);
#pragma unroll
    for (int n = 0; n < kN; n += 16) {
      ldmatrix_x4_trans(fb, b + k * kPitch<kN> + n);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        mma_bf16(acc[m] + n / 2, fw[m], fb[0], fb[1]);
        mma_bf16(acc[m] + n / 2 + 4, fw[m], fb[2], fb[3]);
      }
    }
  }
}

}  // namespace moe::cuda
