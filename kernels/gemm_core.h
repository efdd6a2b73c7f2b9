// The inner part of every matrix product on the CPU: a micro-kernel that keeps a tile of C in registers.
//   C[i, j] (=|+=) sum over k of A(i, k) * B[k, j],   i < MR,   j < kNR,   k = 0, 1, ... in that order
// The bits of an element depend on its own row of A, column of B and the length of the sum; never on MR or on where the
// element lies in the tile. Included by gemm.cpp and attention.cpp only.
// Not here: packing (gemm_pack.h), blocking and threads (gemm.cpp).
#pragma once

#include <array>
#include <utility>

#include "kernels/simd.h"

namespace moe::MOE_ISA {

#if defined(__AVX512F__)
inline constexpr int kMaxMR = 14;  // 14 x 2 accumulators, 2 vectors of B and 1 of A: 31 of 32 registers
#elif defined(__AVX2__)
inline constexpr int kMaxMR = 6;  // 15 of 16 registers
#else
inline constexpr int kMaxMR = 5;  // without a fused multiply-add the product needs a register of its own
#endif
inline constexpr int kNR = 2 * kWidth;

// How A(i, k) lies in memory: kRows at a[i * stride + k], kColumns at a[k * stride + i].
enum class ALayout : std::uint8_t { kRows, kColumns };

struct MicroArgs {
  const float* a;
  std::int64_t a_stride;
  const float* b;  // row k of B, kNR floats, at b + k * b_stride
  std::int64_t b_stride;
  std::int64_t num_k;
  float* c;  // row i of C, kNR floats, at c + i * c_stride
  std::int64_t c_stride;
  Store store;
  const char* soon;  // what is needed next: the line at soon + k * soon_stride (bytes) is prefetched for every k
  std::int64_t soon_stride;
};

// *x in every lane. Spelled out for AVX-512, where the compiler would rather load x again for each product.
static inline vf broadcast(const float* x) {
#if defined(__AVX512F__)
  vf v;
  asm("vbroadcastss %1, %0" : "=v"(v) : "m"(*x));
  return v;
#else
  return splat(*x);
#endif
}

template <int MR, ALayout kLayout>
static void micro_kernel(const MicroArgs& t) {
  vf acc[MR][2] = {};
  // Three rows share a pointer: p, p + stride and p + 2 * stride are addressing modes, fourteen pointers would spill.
  const float* a[(MR + 2) / 3];
  for (int g = 0; g < (MR + 2) / 3; ++g) a[g] = t.a + 3 * g * t.a_stride;
  const float* b = t.b;
  for (int i = 0; i < MR; ++i) {
    __builtin_prefetch(t.c + i * t.c_stride, 1);
    __builtin_prefetch(t.c + i * t.c_stride + kNR - 1, 1);
  }
  const char* soon = t.soon;
  // One step of k. Few instructions besides the products: with a busy sibling thread the front end is the narrow place.
  const auto step = [&](std::int64_t k) __attribute__((always_inline)) {
    const vf b0 = load(b), b1 = load(b + kWidth);
    b += t.b_stride;
#pragma GCC unroll 16
    for (int i = 0; i < MR; ++i) {
      const vf ai = broadcast(kLayout == ALayout::kRows ? a[i / 3] + k + (i % 3) * t.a_stride : t.a + k * t.a_stride + i);
      acc[i][0] = fma(ai, b0, acc[i][0]);
      acc[i][1] = fma(ai, b1, acc[i][1]);
    }
  };
  std::int64_t k = 0;
  for (; k + 4 <= t.num_k; k += 4) {
#pragma GCC unroll 4
    for (int u = 0; u < 4; ++u) {
      __builtin_prefetch(soon, 0, 2), soon += t.soon_stride;  // to L2 only: L1 is full of what is in use
      step(k + u);
    }
  }
  for (; k < t.num_k; ++k) step(k);
  const bool add = t.store == Store::kAdd;
#pragma GCC unroll 16
  for (int i = 0; i < MR; ++i) {
    float* c = t.c + i * t.c_stride;
    store(c, add ? load(c) + acc[i][0] : acc[i][0]);
    store(c + kWidth, add ? load(c + kWidth) + acc[i][1] : acc[i][1]);
  }
}

using MicroKernel = void (*)(const MicroArgs&);

template <ALayout kLayout, std::size_t... I>
constexpr std::array<MicroKernel, kMaxMR + 1> micro_kernels_of(std::index_sequence<I...>) {
  return {nullptr, micro_kernel<static_cast<int>(I) + 1, kLayout>...};
}
// [rows], 1 .. kMaxMR.
template <ALayout kLayout>
static constexpr auto kMicroKernels = micro_kernels_of<kLayout>(std::make_index_sequence<kMaxMR>());

static inline void run_micro_kernel(ALayout layout, int rows, const MicroArgs& t) {
  (layout == ALayout::kRows ? kMicroKernels<ALayout::kRows> : kMicroKernels<ALayout::kColumns>)[rows](t);
}

// The same for n < kNR columns of C; B must still be readable (zeros) to kNR columns.
static inline void run_micro_kernel_edge(ALayout layout, int rows, int n, MicroArgs t) {
  alignas(64) float tile[kMaxMR * kNR];
  float* c = t.c;
  const std::int64_t c_stride = t.c_stride;
  const bool add = t.store == Store::kAdd;
  t.c = tile;
  t.c_stride = kNR;
  t.store = Store::kAssign;
  run_micro_kernel(layout, rows, t);
  for (int i = 0; i < rows; ++i)
    for (int j = 0; j < n; ++j) c[i * c_stride + j] = add ? c[i * c_stride + j] + tile[i * kNR + j] : tile[i * kNR + j];
}

// Cuts n into the fewest parts of at most `most`, as equal as can be: 16 rows are 8 + 8, not 14 + 2.
struct EvenCut {
  std::int64_t parts, small, larger;  // the first `larger` parts have small + 1
  EvenCut(std::int64_t n, std::int64_t most) : parts((n + most - 1) / most), small(0), larger(0) {
    if (parts > 0) small = n / parts, larger = n % parts;
  }
  std::int64_t begin(std::int64_t part) const { return part * small + (part < larger ? part : larger); }
  std::int64_t size(std::int64_t part) const { return small + (part < larger ? 1 : 0); }
};

}  // namespace moe::MOE_ISA
