// Products of float matrices in float on CUDA cores, with whatever strides: for Muon, whose matrices are few. A block of 256
// threads has a square tile of the result, a thread R x R elements of it; the next piece of the operands comes into
// registers while this one, in shared memory, is multiplied. Every sum runs over k in rising order. Included by kernels/*.cu
// only. Not here: bf16, tensor cores, grouped products (gemm.cu).
#pragma once

#include "kernels/cuda.h"

namespace moe::cuda {

// Element (i, j) lies at p[i * row + j * col]; row or col is 1.
struct Strided {
  const float* p;
  i64 row, col;
  Strided transposed() const { return {p, col, row}; }
};

// c_MN (=) alpha * a_MK b_KN + beta * add_MN; c and add have N columns without padding and may be the same.
struct Product {
  i64 M, N, K;
  Strided a, b;
  float alpha, beta;
  const float* add;
  float* c;
};

namespace products {

constexpr unsigned kSide = 16, kThreads = kSide * kSide;
constexpr int kDepth = 8;  // of k that is in shared memory at once

// A kTile x kDepth piece of an operand, element (line, depth) at p[line * along + depth * deep], brought in by all threads:
// neighbouring threads read neighbouring addresses, those of a line if kDeepIsNext (deep is 1), else of a depth (along is
// 1). In shared memory [depth][line]. Zero outside.
template <int kTile, bool kDeepIsNext>
struct Piece {
  static constexpr int kThreadsInt = static_cast<int>(kThreads), kEach = kTile * kDepth / kThreadsInt;
  static constexpr int kPitch = kTile + 4;
  static constexpr int kLineStep = kDeepIsNext ? kThreadsInt / kDepth : 0;  // from one element of a thread to its next
  static constexpr int kDepthStep = kDeepIsNext ? 0 : kThreadsInt / kTile;
  const float* p;  // of this thread's first element
  i64 step, next;  // to its other elements, and to the piece after this one
  int lines, depths;
  int line, depth;  // in the piece
  float v[kEach];

  __device__ Piece(const float* operand, i64 along, i64 deep, i64 first_line, i64 num_lines, i64 num_depths) {
    const int i = static_cast<int>(threadIdx.x);
    line = kDeepIsNext ? i / kDepth : i % kTile, depth = kDeepIsNext ? i % kDepth : i / kTile;
    p = operand + (first_line + line) * along + depth * deep;
    step = kDeepIsNext ? kLineStep * along : kDepthStep * deep, next = kDepth * deep;
    lines = static_cast<int>(num_lines - first_line < kTile ? num_lines - first_line : kTile) - line;
    depths = static_cast<int>(num_depths) - depth;
  }
  // The next piece, if there is one.
  __device__ void load() {
#pragma unroll
    for (int n = 0; n < kEach; ++n) v[n] = n * kLineStep < lines && n * kDepthStep < depths ? p[n * step] : 0.0f;
    p += next, depths -= kDepth;
  }
  __device__ void store(float* shared) const {
#pragma unroll
    for (int n = 0; n < kEach; ++n) shared[(depth + n * kDepthStep) * kPitch + line + n * kLineStep] = v[n];
  }
};

// The lines of a thread: four neighbours in each 64.
template <int R>
__device__ int line_in_tile(int i, int of_side) {
  return i / 4 * static_cast<int>(4 * kSide) + of_side * 4 + i % 4;
}

// sum += the products of the pieces in shared memory.
template <int R>
__device__ void multiply(const float* a, const float* b, int tx, int ty, float (&sum)[R][R]) {
  constexpr int kPitch = Piece<16 * R, true>::kPitch;
#pragma unroll
  for (int d = 0; d < kDepth; ++d) {
    Pack<4, float> x[R / 4], y[R / 4];
#pragma unroll
    for (int h = 0; h < R / 4; ++h) {
      x[h] = *reinterpret_cast<const Pack<4, float>*>(a + d * kPitch + line_in_tile<R>(4 * h, ty));
      y[h] = *reinterpret_cast<const Pack<4, float>*>(b + d * kPitch + line_in_tile<R>(4 * h, tx));
    }
#pragma unroll
    for (int i = 0; i < R; ++i)
#pragma unroll
      for (int j = 0; j < R; ++j) sum[i][j] = __fmaf_rn(x[i / 4].v[i % 4], y[j / 4].v[j % 4], sum[i][j]);
  }
}

template <int R, bool kAlongRowsOfA, bool kAlongColumnsOfB>
__global__ void __launch_bounds__(kThreads, 2) product_kernel(Product p, unsigned tiles_n) {
  constexpr int kTile = 16 * R;
  __shared__ Pack<4, float> shared[2][kDepth * Piece<kTile, true>::kPitch / 4];
  float *const shared_a = shared[0]->v, *const shared_b = shared[1]->v;
  const i64 m = i64{blockIdx.x / tiles_n} * kTile, n = i64{blockIdx.x % tiles_n} * kTile;
  const int tx = static_cast<int>(threadIdx.x % kSide), ty = static_cast<int>(threadIdx.x / kSide);
  float sum[R][R] = {};
  Piece<kTile, kAlongRowsOfA> a(p.a.p, p.a.row, p.a.col, m, p.M, p.K);
  Piece<kTile, kAlongColumnsOfB> b(p.b.p, p.b.col, p.b.row, n, p.N, p.K);
  a.load(), b.load();
  for (i64 k = 0; k < p.K; k += kDepth) {
    a.store(shared_a), b.store(shared_b);
    __syncthreads();
    a.load(), b.load();
    multiply<R>(shared_a, shared_b, tx, ty, sum);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < R; ++i)
#pragma unroll
    for (int j = 0; j < R; ++j) {
      const i64 row = m + line_in_tile<R>(i, ty), col = n + line_in_tile<R>(j, tx);
      if (row >= p.M || col >= p.N) continue;
      const i64 at = row * p.N + col;
      p.c[at] = p.beta == 0.0f ? p.alpha * sum[i][j] : __fmaf_rn(p.alpha, sum[i][j], p.beta * p.add[at]);
    }
}

template <int R>
void launch_tiles(Queue& q, const Product& p) {
  const unsigned tiles_n = blocks_for(p.N, 16 * R);
  const auto run = [&](auto* kernel) { launch(q, kernel, blocks_for(p.M, 16 * R) * tiles_n, kThreads, 0, p, tiles_n); };
  if (p.a.col == 1)
    p.b.row == 1 ? run(product_kernel<R, true, true>) : run(product_kernel<R, true, false>);
  else
    p.b.row == 1 ? run(product_kernel<R, false, true>) : run(product_kernel<R, false, false>);
}

}  // namespace products

// Tiles of 128 where there are enough of them for a whole device, else of 64.
inline void product(Queue& q, const Product& p) {
  constexpr i64 kEnough = i64{128} * 128 * 128;
  if (p.M * p.N >= kEnough)
    products::launch_tiles<8>(q, p);
  else
    products::launch_tiles<4>(q, p);
}

}  // namespace moe::cuda
