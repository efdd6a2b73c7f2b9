// Few rows times a transposed matrix that is read once, where it lies: c[i][j] (=|+=) sum over k of a[i][k] * b[j][k].
// Both operands are contiguous in k. An element is the sum of kWidth partial sums, one for each lane, each over k in
// steps of kWidth, added pairwise: its bits depend on its own row, column and num_k, never on the tile that holds it.
// Where both are bf16 and the processor multiplies such pairs (AVX512_BF16), steps are twice as long, and numbers below
// 2^-126 count as 0. Included by gemm.cpp, latent.cpp and cache_attention.cpp only. Not here: threads.
#pragma once

#include "kernels/gemm_pack.h"

namespace moe::MOE_ISA {

// The columns of B that come next lie in pieces too short for hardware prefetchers: the tiles that share the columns at hand
// fetch them into L2, tile t of n every n-th column from t on.
template <class T>
struct NextColumns {
  const T* b = nullptr;  // nullptr: nothing to fetch
  std::int64_t stride = 0, first = 0, step = 1;

  template <int kCols>
  void prefetch(std::int64_t k) const {
    if (b == nullptr || k * static_cast<std::int64_t>(sizeof(T)) % 64 != 0) return;
    for (std::int64_t j = first; j < kCols; j += step) __builtin_prefetch(b + j * stride + k, 0, 2);
  }
};

// Rows a[i * a_stride] against kWidth / kRows columns of B; lane i * kWidth / kRows + j of the result is c[i][j].
template <int kRows, class T>
static inline vf dot_tile(const float* a, std::int64_t a_stride, const T* b, std::int64_t b_stride, std::int64_t num_k,
                          const NextColumns<T>& next) {
  constexpr int kCols = kWidth / kRows;
  vf acc[kWidth] = {};
  const auto step = [&](std::int64_t k, auto read) __attribute__((always_inline)) {
    vf x[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) x[i] = read(a + i * a_stride + k);
#pragma GCC unroll 16
    for (int j = 0; j < kCols; ++j) {
      const vf y = read(b + j * b_stride + k);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) acc[i * kCols + j] = fma(x[i], y, acc[i * kCols + j]);
    }
  };
  std::int64_t k = 0;
  for (; k + kWidth <= num_k; k += kWidth) {
    next.template prefetch<kCols>(k);
    step(k, [](const auto* p) { return load(p); });
  }
  if (const int left = static_cast<int>(num_k - k); left > 0) step(k, [left](const auto* p) { return load_part(p, left); });
  return sum_each(acc);
}

#if defined(__AVX512F__)
static inline bool multiplies_bf16() {
  static const bool answer = __builtin_cpu_supports("avx512bf16") != 0;
  return answer;
}

// The same of two bf16 matrices. Only where multiplies_bf16().
template <int kRows>
__attribute__((target("avx512bf16"), noinline)) static vf dot_tile(const BF16* a, std::int64_t a_stride, const BF16* b,
                                                                   std::int64_t b_stride, std::int64_t num_k,
                                                                   const NextColumns<BF16>& next) {
  constexpr int kCols = kWidth / kRows, kStep = 2 * kWidth;
  vf acc[kWidth] = {};
  for (std::int64_t k = 0; k < num_k; k += kStep) {
    const std::int64_t left = num_k - k;
    const __mmask32 there = left >= kStep ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    next.template prefetch<kCols>(k);
    __m512bh x[kRows];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) x[i] = (__m512bh)_mm512_maskz_loadu_epi16(there, a + i * a_stride + k);
#pragma GCC unroll 16
    for (int j = 0; j < kCols; ++j) {
      const __m512bh y = (__m512bh)_mm512_maskz_loadu_epi16(there, b + j * b_stride + k);
#pragma GCC unroll 16
      for (int i = 0; i < kRows; ++i) acc[i * kCols + j] = (vf)_mm512_dpbf16_ps((__m512)acc[i * kCols + j], x[i], y);
    }
  }
  return sum_each(acc);
}
#endif

constexpr std::int64_t kMostBytesAhead = 512 << 10;  // of L2

// Rows [i, i + kRows) against columns [j, j + cols) of all; the first `skip` rows are known already.
template <class T, class A = float>
struct DotProduct {
  const A* a;
  std::int64_t a_stride;
  const T* b;
  std::int64_t b_stride, m, n, num_k;
  float* c;
  std::int64_t c_stride;
  Store how;

  // A tile that has one column only repeats it.
  template <int kRows>
  void tile(std::int64_t i, std::int64_t j, int cols, std::int64_t skip, const NextColumns<T>& next) const {
    constexpr int kCols = kWidth / kRows;
    alignas(64) float sums[kWidth];
    store(sums, dot_tile<kRows>(a + i * a_stride, a_stride, b + j * b_stride, cols == kCols ? b_stride : 0, num_k, next));
    for (std::int64_t r = skip; r < kRows; ++r)
      for (int l = 0; l < cols; ++l) {
        float* to = c + (i + r) * c_stride + j + l;
        *to = how == Store::kAdd ? *to + sums[r * kCols + l] : sums[r * kCols + l];
      }
  }
  // kRows <= m. A few columns meet all rows, so that B comes from memory once; the last rows overlap those before them.
  template <int kRows>
  void run() const {
    constexpr int kCols = kWidth / kRows;
    for (std::int64_t j = 0; j < n;) {
      const int cols = n - j >= kCols ? kCols : 1;
      for (std::int64_t i = 0; i < m; i += kRows) {
        const std::int64_t first = i + kRows <= m ? i : m - kRows;
        const bool fetch =
            j + cols + kCols <= n && kCols * b_stride * static_cast<std::int64_t>(sizeof(T)) <= kMostBytesAhead;
        tile<kRows>(first, j, cols, i - first,
                    {fetch ? b + (j + cols) * b_stride : nullptr, b_stride, i / kRows, (m + kRows - 1) / kRows});
      }
      j += cols;
    }
  }
};

template <class T, class A = float>
static inline void multiply_by_dots(const DotProduct<T, A>& p) {
  if (p.m >= 4) return p.template run<4>();
  if (p.m >= 2) return p.template run<2>();
  p.template run<1>();
}

}  // namespace moe::MOE_ISA
