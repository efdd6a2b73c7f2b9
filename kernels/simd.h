// Vectors of floats as wide as the instruction set that this file is compiled for. Every kernel source is compiled once
// per instruction set, in its own namespace moe::MOE_ISA (see kernels/CMakeLists.txt); only this header knows the width.
// Included by kernels/*.cpp only. Not here: anything that is not in a per-ISA namespace, so that no inline function
// compiled for one processor can be linked into the code for another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "kernels/view.h"

namespace moe::MOE_ISA {

#if defined(__AVX512F__)
inline constexpr int kWidth = 16;  // floats in a vector
#elif defined(__AVX2__)
inline constexpr int kWidth = 8;
#else
inline constexpr int kWidth = 4;
#endif

typedef float vf __attribute__((vector_size(4 * kWidth)));
typedef std::int32_t vi __attribute__((vector_size(4 * kWidth)));
typedef std::uint32_t vu __attribute__((vector_size(4 * kWidth)));
typedef std::uint16_t vh __attribute__((vector_size(2 * kWidth)));

// 0, 1, 2, ... in the lanes.
static inline vf lane_numbers() {
  vf v;
  for (int i = 0; i < kWidth; ++i) v[i] = static_cast<float>(i);
  return v;
}
static inline vf splat(float x) { return x - vf{}; }
static inline vf load(const float* p) {
  vf v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
static inline void store(float* p, vf v) { std::memcpy(p, &v, sizeof v); }
static inline vf select(vi mask, vf a, vf b) { return mask ? a : b; }
static inline vf max(vf a, vf b) { return a > b ? a : b; }
static inline vf min(vf a, vf b) { return a < b ? a : b; }
static inline vf sqrt(vf v) {
  float t[kWidth];
  store(t, v);
  for (int i = 0; i < kWidth; ++i) t[i] = __builtin_sqrtf(t[i]);
  return load(t);
}
static inline vf fma(vf a, vf b, vf c) { return a * b + c; }  // contracted: -ffp-contract=fast

// Written with vector operators, not intrinsics: g++ 12 warns about its own AVX-512 headers (maybe-uninitialized).
static inline vf load(const BF16* p) {
  vh h;
  std::memcpy(&h, p, sizeof h);
  return (vf)(__builtin_convertvector(h, vu) << 16);
}
static inline void store(BF16* p, vf v) {
  const vu u = (vu)v;
  const vu rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16, quiet_nan = (u >> 16) | 0x40;
  const vh h = __builtin_convertvector(v == v ? rounded : quiet_nan, vh);
  std::memcpy(p, &h, sizeof h);
}

// The first n (0 <= n <= kWidth) elements; the others are 0 / untouched. Copied by powers of two: a call of memcpy with a
// variable size costs more than all the rest of a short row.
template <class T>
static inline void copy_part(T* to, const T* from, int n) {
  if (n == kWidth) {
    std::memcpy(to, from, kWidth * sizeof(T));
    return;
  }
  if constexpr (kWidth > 8)
    if (n & 8) std::memcpy(to, from, 8 * sizeof(T)), to += 8, from += 8;
  if constexpr (kWidth > 4)
    if (n & 4) std::memcpy(to, from, 4 * sizeof(T)), to += 4, from += 4;
  if (n & 2) std::memcpy(to, from, 2 * sizeof(T)), to += 2, from += 2;
  if (n & 1) *to = *from;
}
template <class T>
static inline vf load_part(const T* p, int n) {
  T t[kWidth] = {};
  copy_part(t, p, n);
  return load(t);
}
template <class T>
static inline void store_part(T* p, vf v, int n) {
  T t[kWidth];
  store(t, v);
  copy_part<T>(p, t, n);
}
#if defined(__AVX512F__)
static inline vf load_part(const float* p, int n) {
  return (vf)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p);
}
static inline void store_part(float* p, vf v, int n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << n) - 1u), (__m512)v);
}
#endif
static inline float load_one(const float* p) { return *p; }
static inline float load_one(const BF16* p) { return to_float(*p); }
static inline void store_one(float* p, float v) { *p = v; }
static inline void store_one(BF16* p, float v) { *p = to_bf16(v); }

// Sum and maximum over the lanes, pairwise (i with i + half): the order is fixed. Quarters are vectors of their own, so
// that the compiler keeps them in registers.
typedef float quarter __attribute__((vector_size(16)));
template <class Op>
static inline float reduce_lanes(vf v, Op op) {
  quarter q[kWidth / 4];
  std::memcpy(q, &v, sizeof v);
  if constexpr (kWidth == 16) q[0] = op(q[0], q[2]), q[1] = op(q[1], q[3]);
  if constexpr (kWidth >= 8) q[0] = op(q[0], q[1]);
  const quarter pair = op(q[0], __builtin_shufflevector(q[0], q[0], 2, 3, 0, 1));
  return op(pair, __builtin_shufflevector(pair, pair, 1, 0, 3, 2))[0];
}
static inline float sum(vf v) {
  return reduce_lanes(v, [](quarter a, quarter b) { return a + b; });
}
static inline float max(vf v) {
  return reduce_lanes(v, [](quarter a, quarter b) { return a > b ? a : b; });
}

// exp(x) / 2^n for the integer n nearest to x / ln 2 (Cody & Waite 1980 reduction, minimax polynomial), |x| < 89. The
// low bits of `shifted` are those of n plus a constant that 9 bits of shift to the left lose.
static inline vf exp_mantissa(vf x, vf& shifted) {
  const vf rounder = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  shifted = fma(x, splat(1.44269504088896341f), rounder);
  const vf n = shifted - rounder;
  vf r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  return fma(p, r * r, r + splat(1.0f));
}

// exp(x), relative error below 2e-7 for x in [-87.3, 88.7]; 0 below, +inf above, NaN stays NaN.
static inline vf exp(vf x) {
  vf t;
  const vf p = exp_mantissa(min(max(x, splat(-87.33654f)), splat(88.72283f)), t);
  // Scale by 2^n in two steps: n may be 128, whose power is not a float.
  const vi ni = (vi)t - (vi)splat(12582912.0f);
  const vi half = ni >> 1;
  const vf y = p * (vf)((half + 127) << 23) * (vf)((ni - half + 127) << 23);
  const vf low = select(x < splat(-87.33654f), vf{}, y);
  const vf high = select(x > splat(88.72283f), splat(__builtin_inff()), low);
  return select(x == x, high, x);
}

}  // namespace moe::MOE_ISA
