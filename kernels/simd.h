// Vectors of floats as wide as the instruction set that this file is compiled for. Every kernel source is compiled once
// per instruction set, in its own namespace moe::MOE_ISA (see kernels/CMakeLists.txt); only this header knows the width.
// Included by kernels/*.cpp only. Not here: anything that is not in a per-ISA namespace, so that no inline function
// compiled for one processor can be linked into the code for another.
#pragma once

#include <cstdint>
#include <cstring>

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

// The first n (0 <= n < kWidth) elements; the others are 0 / untouched.
template <class T>
static inline vf load_part(const T* p, int n) {
  T t[kWidth] = {};
  std::memcpy(t, p, sizeof(T) * static_cast<std::size_t>(n));
  return load(t);
}
template <class T>
static inline void store_part(T* p, vf v, int n) {
  T t[kWidth];
  store(t, v);
  std::memcpy(p, t, sizeof(T) * static_cast<std::size_t>(n));
}
static inline float load_one(const float* p) { return *p; }
static inline float load_one(const BF16* p) { return to_float(*p); }
static inline void store_one(float* p, float v) { *p = v; }
static inline void store_one(BF16* p, float v) { *p = to_bf16(v); }

// Sum and maximum over the lanes, pairwise: the order is fixed.
static inline float sum(vf v) {
  float t[kWidth];
  store(t, v);
  for (int w = kWidth / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) t[i] += t[i + w];
  return t[0];
}
static inline float max(vf v) {
  float t[kWidth];
  store(t, v);
  for (int w = kWidth / 2; w > 0; w /= 2)
    for (int i = 0; i < w; ++i) t[i] = t[i] > t[i + w] ? t[i] : t[i + w];
  return t[0];
}

// exp(x), relative error below 2e-7 for x in [-87.3, 88.7]; 0 below, +inf above, NaN stays NaN.
static inline vf exp(vf x) {
  const vf clamped = min(max(x, splat(-87.33654f)), splat(88.72283f));
  const vf rounder = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const vf t = fma(clamped, splat(1.44269504088896341f), rounder);
  const vf n = t - rounder;
  vf r = fma(n, splat(-0.693359375f), clamped);
  r = fma(n, splat(2.12194440e-4f), r);
  vf p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + splat(1.0f));
  // Scale by 2^n in two steps: n may be 128, whose power is not a float.
  const vi ni = (vi)t - (vi)rounder;
  const vi half = ni >> 1;
  const vf y = p * (vf)((half + 127) << 23) * (vf)((ni - half + 127) << 23);
  const vf low = select(x < splat(-87.33654f), vf{}, y);
  const vf high = select(x > splat(88.72283f), splat(__builtin_inff()), low);
  return select(x == x, high, x);
}

}  // namespace moe::MOE_ISA
