// Copies of operands in the order in which the micro-kernel of gemm_core.h reads them, as fp32.
//   panel of B   [num_k][kNR], zeros beyond the last column
//   block of A   as rows [rows][pitch], or tile by tile [num_k][rows of the tile]
// Included by gemm.cpp and attention.cpp only. Not here: any arithmetic, any choice of block sizes.
#pragma once

#include "kernels/gemm_core.h"

namespace moe::MOE_ISA {

// An operand as stored: element (i, j) of the matrix meant is data[i * stride + j], or data[j * stride + i] if transposed.
struct Operand {
  const void* data;
  DType dtype;
  std::int64_t stride;
  bool transposed;

  template <class T>
  const T* at(std::int64_t i, std::int64_t j) const {
    return static_cast<const T*>(data) + (transposed ? j * stride + i : i * stride + j);
  }
};
static inline Operand operand(const CMat& m, bool transposed) { return {m.data, m.dtype, m.stride, transposed}; }

// (a0 b0 a1 b1 ...) of the lower or of the upper halves.
template <int kFirst, int... I>
static inline vf interleave(vf a, vf b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (kFirst + I / 2 + (I % 2) * kWidth)...);
}
static inline vf interleave_low(vf a, vf b) { return interleave<0>(a, b, std::make_integer_sequence<int, kWidth>()); }
static inline vf interleave_high(vf a, vf b) {
  return interleave<kWidth / 2>(a, b, std::make_integer_sequence<int, kWidth>());
}

// r[i][j] becomes r[j][i]: log2(kWidth) perfect shuffles of the rows.
static inline void transpose(vf (&r)[kWidth]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < kWidth; stage *= 2) {
    vf s[kWidth];
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; ++i) {
      s[2 * i] = interleave_low(r[i], r[i + kWidth / 2]);
      s[2 * i + 1] = interleave_high(r[i], r[i + kWidth / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) r[i] = s[i];
  }
}

// Lane i is the sum of the lanes of r[i], added pairwise.
static inline vf sum_each(vf (&r)[kWidth]) {
#pragma GCC unroll 4
  for (int half = kWidth / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int i = 0; i < half; ++i) r[i] = interleave_low(r[i], r[i + half]) + interleave_high(r[i], r[i + half]);
  return r[0];
}

// dst[k][j] = src[k * stride + j], j < n.
template <class T>
static inline void pack_panel_rows(const T* src, std::int64_t stride, std::int64_t num_k, int n, float* dst) {
  const int n0 = n < kWidth ? n : kWidth, n1 = n - n0;
  for (std::int64_t k = 0; k < num_k; ++k, src += stride, dst += kNR) {
    store(dst, n0 == kWidth ? load(src) : load_part(src, n0));
    store(dst + kWidth, n1 == kWidth ? load(src + kWidth) : n1 > 0 ? load_part(src + kWidth, n1) : vf{});
  }
}

// dst[k][j] = src[j * stride + k] for num_k <= kWidth values of k and n <= kWidth columns; zeros for the other columns.
template <class T>
static inline void pack_transposed_square(const T* src, std::int64_t stride, int num_k, int n, float* dst) {
  vf r[kWidth];
  if (num_k == kWidth && n == kWidth) {
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) r[j] = load(src + j * stride);
    transpose(r);
#pragma GCC unroll 16
    for (int k = 0; k < kWidth; ++k) store(dst + k * kNR, r[k]);
    return;
  }
  for (int j = 0; j < kWidth; ++j) r[j] = j < n ? load_part(src + j * stride, num_k) : vf{};
  transpose(r);
  for (int k = 0; k < num_k; ++k) store(dst + k * kNR, r[k]);
}

template <class T>
static inline void pack_panel_columns(const T* src, std::int64_t stride, std::int64_t num_k, int n, float* dst) {
  for (std::int64_t k = 0; k < num_k; k += kWidth) {
    const int nk = static_cast<int>(num_k - k < kWidth ? num_k - k : kWidth);
    for (int j = 0; j < kNR; j += kWidth) {
      const int nj = n - j < 0 ? 0 : n - j < kWidth ? n - j : kWidth;
      pack_transposed_square(src + (nj > 0 ? j * stride : 0) + k, stride, nk, nj, dst + k * kNR + j);
    }
  }
}

// The panels of rows [k0, k0 + num_k) and columns [j0, j0 + n) of B, one after the other. Row-major B is read along its
// rows, as hardware prefetchers expect.
template <class T>
static inline void pack_panels_of(const Operand& b, std::int64_t k0, std::int64_t num_k, std::int64_t j0, std::int64_t n,
                                  float* dst) {
  const std::int64_t step = b.transposed ? num_k : 8;
  for (std::int64_t k = 0; k < num_k; k += step)
    for (std::int64_t j = 0; j < n; j += kNR) {
      const T* src = b.at<T>(k0 + k, j0 + j);
      const std::int64_t nk = num_k - k < step ? num_k - k : step;
      const int nj = static_cast<int>(n - j < kNR ? n - j : kNR);
      float* to = dst + j * num_k + k * kNR;
      b.transposed ? pack_panel_columns(src, b.stride, nk, nj, to) : pack_panel_rows(src, b.stride, nk, nj, to);
    }
}
static inline void pack_panels(const Operand& b, std::int64_t k0, std::int64_t num_k, std::int64_t j0, std::int64_t n,
                               float* dst) {
  b.dtype == DType::kF32 ? pack_panels_of<float>(b, k0, num_k, j0, n, dst) : pack_panels_of<BF16>(b, k0, num_k, j0, n, dst);
}

// dst[i * pitch + k] = src[i * stride + k].
template <class T>
static inline void pack_rows(const T* src, std::int64_t stride, std::int64_t rows, std::int64_t num_k, float* dst,
                             std::int64_t pitch) {
  for (std::int64_t i = 0; i < rows; ++i, src += stride, dst += pitch) {
    std::int64_t k = 0;
    for (; k + kWidth <= num_k; k += kWidth) store(dst + k, load(src + k));
    for (; k < num_k; ++k) dst[k] = load_one(src + k);
  }
}

// Tile t of the rows cut evenly goes to dst + t * tile_pitch: [num_k][its rows], from src[k * stride + i]. Whole vectors
// are stored, so that kMaxMR rounded up to vectors may be written behind a tile: tile_pitch leaves room for that.
static inline std::int64_t tile_pitch(std::int64_t num_k) { return num_k * kMaxMR + 2 * kWidth; }
template <class T>
static inline void pack_tiles(const T* src, std::int64_t stride, std::int64_t rows, std::int64_t num_k, float* dst) {
  const EvenCut tiles(rows, kMaxMR);
  for (std::int64_t k = 0; k < num_k; ++k, src += stride)
    for (std::int64_t t = 0; t < tiles.parts; ++t) {
      const std::int64_t begin = tiles.begin(t), size = tiles.size(t);
      float* row = dst + t * tile_pitch(num_k) + k * size;
      for (std::int64_t i = 0; i < size; i += kWidth) {
        const std::int64_t left = rows - begin - i;
        store(row + i, left >= kWidth ? load(src + begin + i) : load_part(src + begin + i, static_cast<int>(left)));
      }
    }
}

}  // namespace moe::MOE_ISA
