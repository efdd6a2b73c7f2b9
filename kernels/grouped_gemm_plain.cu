// Products without matrix units: a tile of 64 x 64 a block for any dtypes, strides and sizes, and few rows, a warp for each
// column. Every sum is in fp32, in an order given by the sizes. Not here: Hopper's way (grouped_gemm_hopper.cu).
#include <algorithm>

#include "kernels/cuda_gemm.h"

namespace moe::cuda {
namespace {

constexpr i64 kTile = 64, kDepth = 16;
constexpr unsigned kThreads = 256;

// Element (i, k) of an operand lies at i * step_i + k * step_k; one of the two is 1.
struct Operand {
  const void* data;
  bool is_bf16;
  i64 step_i, step_k;

  __device__ float at(i64 offset) const {
    return is_bf16 ? to_f32(static_cast<const BF16*>(data)[offset]) : static_cast<const float*>(data)[offset];
  }
};

// kTile x kDepth elements from (i, k), zeros beyond (end_i, end_k). Neighbouring threads read neighbouring elements.
__device__ void load_tile(float (&tile)[kDepth][kTile + 4], const Operand& a, i64 base, i64 i, i64 end_i, i64 k, i64 end_k) {
  for (i64 t = threadIdx.x; t < kTile * kDepth; t += kThreads) {
    const i64 di = a.step_k == 1 ? t / kDepth : t % kTile, dk = a.step_k == 1 ? t % kDepth : t / kTile;
    const bool inside = i + di < end_i && k + dk < end_k;
    tile[dk][di] = inside ? a.at(base + (i + di) * a.step_i + (k + dk) * a.step_k) : 0.0f;
  }
}

struct PlainArgs {
  Direction direction;
  Operand left, right;  // D[i, j] = sum over k of left(i, k) right(j, k)
  Mat result;
  i64 inner;  // kForward, kBackwardInput: length of the sums
  i64 out;    // N, rows of an expert's weights
  i64 weight_stride;
  bool add;
};

// Where expert e's part of the product lies.
struct Part {
  i64 left, right;  // offsets of the operands
  i64 rows, inner;  // of D, of the sums
  i64 result_row;
};
__device__ Part part_of(const PlainArgs& p, const TileWalk& walk) {
  const i64 first = walk.first_row(), n = walk.size(), e = walk.expert;
  if (p.direction == Direction::kBackwardWeight) return {first * p.left.step_k, first * p.right.step_k, p.out, n, e * p.out};
  return {first * p.left.step_i, e * p.out * p.weight_stride, n, p.inner, first};
}

__device__ void put_at(const Mat& m, i64 i, i64 j, float v, bool add) {
  const i64 at = i * m.stride + j;
  if (m.dtype == DType::kF32) {
    float* const to = static_cast<float*>(m.data) + at;
    *to = add ? *to + v : v;
  } else {
    BF16* const to = static_cast<BF16*>(m.data) + at;
    put(to, add ? to_f32(*to) + v : v);
  }
}

// A thread owns 4 x 4 elements of the tile.
__global__ void __launch_bounds__(kThreads) plain_kernel(PlainArgs p, TileWalk walk) {
  __shared__ float left[kDepth][kTile + 4], right[kDepth][kTile + 4];
  const unsigned ti = threadIdx.x / 16 * 4, tj = threadIdx.x % 16 * 4;
  for (i64 tile = blockIdx.x; walk.seek(tile); tile += gridDim.x) {
    const Part part = part_of(p, walk);
    const i64 i0 = (tile - walk.before) / walk.across * kTile, j0 = (tile - walk.before) % walk.across * kTile;
    float sum[4][4] = {};
    for (i64 k = 0; k < part.inner; k += kDepth) {
      load_tile(left, p.left, part.left, i0, part.rows, k, part.inner);
      load_tile(right, p.right, part.right, j0, p.result.cols, k, part.inner);
      __syncthreads();
      for (i64 d = 0; d < kDepth; ++d)
        for (int a = 0; a < 4; ++a)
          for (int b = 0; b < 4; ++b) sum[a][b] += left[d][ti + a] * right[d][tj + b];
      __syncthreads();
    }
    for (int a = 0; a < 4; ++a)
      for (int b = 0; b < 4; ++b)
        if (i0 + ti + a < part.rows && j0 + tj + b < p.result.cols)
          put_at(p.result, part.result_row + i0 + ti + a, j0 + tj + b, sum[a][b], p.add);
  }
}

// ---- Few rows: lane l of a warp sums elements 8 (32 c + l) .. + 7 of a row, c = 0, 1, ..., however they are loaded.

constexpr int kPiece = 8, kRowsAtOnce = 8;

template <class T>
__device__ void load_piece(const T* from, i64 left, bool aligned, float (&to)[kPiece]) {
  if (aligned && left >= kPiece) {
    constexpr int kParts = kPiece * sizeof(T) / 16, kEach = kPiece / kParts;
    for (int part = 0; part < kParts; ++part) {
      const auto v = reinterpret_cast<const Pack<kEach, T>*>(from)[part];
      for (int i = 0; i < kEach; ++i) to[part * kEach + i] = to_f32(v.v[i]);
    }
    return;
  }
  for (int i = 0; i < kPiece; ++i) to[i] = i < left ? to_f32(from[i]) : 0.0f;
}

// A warp: column blockIdx.x * (warps of the block) + its number, all rows of expert blockIdx.y, some at once.
template <class X, class W, class Y>
__global__ void few_rows_kernel(const X* x, i64 x_stride, bool x_aligned, const W* w, i64 w_stride, bool w_aligned, Y* y,
                                i64 y_stride, i64 out, i64 in, const i64* psum, i64 num_rows, bool add) {
  const i64 n = i64{blockIdx.x} * (blockDim.x / kWarp) + threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const i64 end = psum ? psum[blockIdx.y + 1] : num_rows;
  if (n >= out) return;
  const W* const w_n = w + (i64{blockIdx.y} * out + n) * w_stride;
  for (i64 row = psum ? psum[blockIdx.y] : 0; row < end; row += kRowsAtOnce) {
    float sum[kRowsAtOnce] = {};
    for (i64 k = lane * kPiece; k < in; k += kWarp * kPiece) {
      float a[kPiece], b[kPiece];
      load_piece(w_n + k, in - k, w_aligned, b);
#pragma unroll
      for (int r = 0; r < kRowsAtOnce; ++r) {
        if (row + r >= end) break;
        load_piece(x + (row + r) * x_stride + k, in - k, x_aligned, a);
        for (int i = 0; i < kPiece; ++i) sum[r] = __fmaf_rn(a[i], b[i], sum[r]);
      }
    }
#pragma unroll
    for (int r = 0; r < kRowsAtOnce; ++r) {
      if (row + r >= end) break;
      const float total = warp_sum(sum[r]);
      Y* const to = y + (row + r) * y_stride + n;
      if (lane == 0) put(to, add ? to_f32(*to) + total : total);
    }
  }
}

}  // namespace

void few_rows_product(Queue& queue, const GroupedProduct& p) {
  constexpr unsigned kWarps = 4;
  const i64 out = p.result.cols;
  const dim3 blocks(blocks_for(out, kWarps), static_cast<unsigned>(p.experts));
  dispatch(
      [&]<class X, class W, class Y>(const X* x, const W* w, Y* y) {
        launch(queue, few_rows_kernel<X, W, Y>, blocks, kWarps * kWarp, 0, x, p.rows.stride,
               aligned16(x, p.rows.rows > 1 ? p.rows.stride : 0), w, p.other.stride, aligned16(w, p.other.stride), y,
               p.result.stride, out, p.rows.cols, p.psum, p.rows.rows, p.add);
      },
      p.rows, p.other, p.result);
}

void plain_product(Queue& queue, const GroupedProduct& p) {
  const bool rows_bf16 = p.rows.dtype == DType::kBF16, other_bf16 = p.other.dtype == DType::kBF16;
  const i64 a = p.rows.stride, b = p.other.stride;
  PlainArgs args = {.direction = p.direction,
                    .left = {p.rows.data, rows_bf16, a, 1},
                    .right = {p.other.data, other_bf16, b, 1},
                    .result = p.result,
                    .inner = p.rows.cols,
                    .out = p.direction == Direction::kForward ? p.result.cols : p.rows.cols,
                    .weight_stride = b,
                    .add = p.add};
  if (p.direction != Direction::kForward) args.right.step_i = 1, args.right.step_k = b;
  if (p.direction == Direction::kBackwardWeight) args.left.step_i = 1, args.left.step_k = a;
  const i64 blocks = std::min(most_tiles(p, kTile, kTile), i64{num_multiprocessors()} * 8);
  launch(queue, plain_kernel, static_cast<unsigned>(blocks), kThreads, 0, args, walk_of(p, kTile, kTile));
}

}  // namespace moe::cuda
