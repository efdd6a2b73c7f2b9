// What the products of gemm.cu and grouped_gemm.cu share: one description of a grouped product for every way to compute it,
// and the walk over the tiles of experts whose sizes only the device knows.
// Not here: which way is taken (grouped_gemm.cu), the BLAS (gemm.cu).
#pragma once

#include "kernels/cuda.h"

namespace moe::cuda {

enum class Direction : std::uint8_t { kForward, kBackwardInput, kBackwardWeight };

// D_e (=|+=) a product of expert e's rows of `rows` [R, .] with `other`, the weights w_ENK or (for their gradient) the other
// row operand:
//   kForward         D[r, n] = sum_k rows[r, k] w_e[n, k]         rows = x,  other = w,  D = y
//   kBackwardInput   D[r, k] = sum_n rows[r, n] w_e[n, k]         rows = dy, other = w,  D = dx
//   kBackwardWeight  D_e[n, k] += sum_r rows[r, n] other[r, k]    rows = dy, other = x,  D = dw
struct GroupedProduct {
  Direction direction;
  CMat rows, other;
  Mat result;
  const i64* psum;  // E + 1 numbers of the device; nullptr: one expert owns all rows
  int experts;
  bool add;
};

// Warp by warp, for few rows and any dtypes, forward only; a row's bits depend on itself alone (kernels/few_rows.h).
void few_rows_product(Queue& queue, const GroupedProduct& p);
// Tiles without matrix units: any dtypes, strides and sizes, in fp32.
void plain_product(Queue& queue, const GroupedProduct& p);
// Matrix units and asynchronous copies of Hopper, where they can be used.
bool fits_hopper(const GroupedProduct& p);
void hopper_product(Queue& queue, const GroupedProduct& p);

// ---- The tiles of D, numbered expert by expert and row by row; a tile never holds rows of two experts. Numbers that are
// asked for must rise. order: the experts in another order than theirs.
struct TileWalk {
  const i64* psum;
  i64 num_rows;  // all, for psum = nullptr
  int experts;
  bool over_weights;  // D_e has `down` x `across` tiles unless the expert is empty; else as many rows of tiles as it needs
  i64 tile_rows, down, across;

  const std::uint16_t* order = nullptr;
  int place = 0;  // of the expert in the order
  int expert = 0;
  i64 before = 0;  // tiles of earlier experts

  __device__ i64 first_row() const { return psum ? psum[expert] : 0; }
  __device__ i64 size_of(int e) const { return psum ? psum[e + 1] - psum[e] : num_rows; }
  __device__ i64 size() const { return size_of(expert); }
  __device__ i64 num_tiles() const {
    if (over_weights) return size() > 0 ? down * across : 0;
    return (size() + tile_rows - 1) / tile_rows * across;
  }
  // Goes to the expert of a tile; false: there is no such tile.
  __device__ bool seek(i64 tile) {
    for (; place < experts; ++place) {
      expert = order ? order[place] : place;
      const i64 n = num_tiles();
      if (tile < before + n) return true;
      before += n;
    }
    return false;
  }
};
// Not fewer than there are, for any sizes of the experts.
inline i64 most_tiles(const GroupedProduct& p, i64 tile_rows, i64 tile_cols) {
  const i64 across = (p.result.cols + tile_cols - 1) / tile_cols;
  if (p.direction == Direction::kBackwardWeight) return p.experts * ((p.rows.cols + tile_rows - 1) / tile_rows) * across;
  return (p.rows.rows / tile_rows + p.experts) * across;
}
inline TileWalk walk_of(const GroupedProduct& p, i64 tile_rows, i64 tile_cols) {
  return {.psum = p.psum,
          .num_rows = p.rows.rows,
          .experts = p.experts,
          .over_weights = p.direction == Direction::kBackwardWeight,
          .tile_rows = tile_rows,
          .down = (p.rows.cols + tile_rows - 1) / tile_rows,
          .across = (p.result.cols + tile_cols - 1) / tile_cols};
}

}  // namespace moe::cuda
