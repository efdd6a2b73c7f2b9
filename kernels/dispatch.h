// What the row-wise kernels share: checks of shapes, the choice of code by the dtypes of the operands, the walk along a
// row vector by vector, and sums whose order depends on the shape only. Included by kernels/*.cpp only; all of it lies in
// the per-ISA namespace (see simd.h). Not here: any formula.
#pragma once

#include <omp.h>

#include "kernels/checks.h"
#include "kernels/device.h"
#include "kernels/simd.h"

namespace moe::MOE_ISA {

using i64 = std::int64_t;

// ---- Every index in [low, end); else std::invalid_argument that names the operation, before any parallel region.
static inline void expect_range(const char* op, const char* name, const std::int32_t* index, i64 n, i64 low, i64 end) {
  i64 outside = 0;
  for (i64 i = 0; i < n; ++i) outside += index[i] < low || index[i] >= end;
  if (outside == 0) return;
  i64 at = 0;
  while (index[at] >= low && index[at] < end) ++at;
  char text[256];
  std::snprintf(text, sizeof text, "%s: expected %s in [%lld, %lld), found %d at %lld (%lld such)", op, name,
                static_cast<long long>(low), static_cast<long long>(end), index[at], static_cast<long long>(at),
                static_cast<long long>(outside));
  throw std::invalid_argument(text);
}

// ---- Types: dispatch(f, a, b) calls f(pa, pb) with the typed pointers (float* or BF16*) of the matrices a, b.

template <class F>
static inline void dispatch(F&& f) {
  f();
}
template <class F, class M, class... Rest>
static inline void dispatch(F&& f, const M& m, const Rest&... rest) {
  if (m.dtype == DType::kF32)
    dispatch([&](auto... p) { f(m.f32(), p...); }, rest...);
  else
    dispatch([&](auto... p) { f(m.bf16(), p...); }, rest...);
}

// ---- Threads. A second thread pays only above some tens of KiB of traffic. Sums never depend on this choice.
static inline int threads_for(const Stream& stream, i64 bytes) { return bytes < (i64{64} << 10) ? 1 : stream.num_threads(); }

// ---- Rows. The body of a loop over a row is called with Whole{} for each full vector and with Part{n} for the rest.

struct Whole {};
struct Part {
  int n;
};
template <class T>
static inline vf load(const T* p, Whole) {
  return load(p);
}
template <class T>
static inline vf load(const T* p, Part part) {  // the lanes beyond are 0
  return load_part(p, part.n);
}
template <class T>
static inline void store(T* p, vf v, Whole) {
  store(p, v);
}
template <class T>
static inline void store(T* p, vf v, Part part) {
  store_part(p, v, part.n);
}
// Replaces the lanes beyond the part.
static inline vf fill_rest(vf v, float, Whole) { return v; }
static inline vf fill_rest(vf v, float rest, Part part) {
  return select(lane_numbers() < splat(static_cast<float>(part.n)), v, splat(rest));
}

template <class Body>
static inline void for_columns(i64 n, Body body) {
  i64 j = 0;
  for (; j + kWidth <= n; j += kWidth) body(j, Whole{});
  if (j < n) body(j, Part{static_cast<int>(n - j)});
}

// Sum of term(j, whole or part) over a row. Terms must be 0 in the lanes beyond a part. Two chains hide the latency.
template <class Term>
static inline float sum_columns(i64 n, Term term) {
  vf even{}, odd{};
  i64 j = 0;
  for (; j + 2 * kWidth <= n; j += 2 * kWidth) {
    even += term(j, Whole{});
    odd += term(j + kWidth, Whole{});
  }
  if (j + kWidth <= n) {
    even += term(j, Whole{});
    j += kWidth;
  }
  if (j < n) odd += term(j, Part{static_cast<int>(n - j)});
  return sum(even + odd);
}

template <class From>
static inline void copy_row(const From* from, From* to, i64 n) {
  std::memcpy(to, from, sizeof(From) * static_cast<std::size_t>(n));
}
template <class From, class To>
static inline void copy_row(const From* from, To* to, i64 n) {
  for_columns(n, [&](i64 j, auto lanes) { store(to + j, load(from + j, lanes), lanes); });
}

// The first row of m as floats: m itself, or a copy in `buffer`.
static inline const float* row_as_floats(const CMat& m, float* buffer) {
  if (m.dtype == DType::kF32) return m.f32();
  copy_row(m.bf16(), buffer, m.cols);
  return buffer;
}

// ---- Sum over blocks of `block` items, added in order: the partition depends on n alone. f(begin, end) returns a
// block's sum. Uses the start of scratch(0); f may not.
template <class F>
static inline double ordered_sum(Stream& stream, i64 n, i64 block, int threads, F f) {
  while ((n + block - 1) / block > static_cast<i64>(Stream::kScratchBytes / sizeof(double))) block *= 2;
  const i64 num_blocks = (n + block - 1) / block;
  double* block_sum = reinterpret_cast<double*>(stream.scratch(0));
#pragma omp parallel for schedule(static) num_threads(threads)
  for (i64 b = 0; b < num_blocks; ++b) block_sum[b] = f(b * block, b * block + block < n ? b * block + block : n);
  double total = 0;
  for (i64 b = 0; b < num_blocks; ++b) total += block_sum[b];
  return total;
}

}  // namespace moe::MOE_ISA
