// What the row-wise CUDA kernels share: packs of elements that move by one access, the geometry of one row per team of
// threads, the part of a row that a thread keeps in registers between two walks. Included by kernels/*.cu only.
// Not here: sums over the rows of a column (cuda_columns.h), any formula.
#pragma once

#include <algorithm>

#include "kernels/cuda.h"
#ifndef MOE_CUDA_ON_HOST
#include <cuda_bf16.h>
#endif

namespace moe::cuda {

// ---- Packs. kPackOf: so many elements that those of the widest type fill 16 bytes.

template <class... T>
inline constexpr int kPackOf = 16 / static_cast<int>(std::max({sizeof(T)...}));

// Every row of m is packs of n elements, and may be read so.
inline bool packs_fit(i64 n, const CMat& m) {
  const std::size_t bytes = static_cast<std::size_t>(n) * size_of(m.dtype);
  return reinterpret_cast<std::uintptr_t>(m.data) % bytes == 0 && (m.stride % n == 0 || m.rows <= 1);
}
// Calls f(n) with the constant n: kPackOf<T...> where all matrices fit and all widths are its multiples, else 1.
template <class... T, class F>
void with_packs(std::initializer_list<CMat> mats, std::initializer_list<i64> widths, F f) {
  constexpr int n = kPackOf<T...>;
  bool fit = true;
  for (const CMat& m : mats) fit = fit && packs_fit(n, m);
  for (const i64 w : widths) fit = fit && w % n == 0;
  if (fit)
    f(std::integral_constant<int, n>());
  else
    f(std::integral_constant<int, 1>());
}

template <int kN, class T>
__device__ inline Pack<kN, T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<kN, T>*>(p);
}
template <int kN, class T>
__device__ inline void widen(const Pack<kN, T>& pack, float (&v)[kN]) {
#pragma unroll
  for (int i = 0; i < kN; ++i) v[i] = to_f32(pack.v[i]);
}
template <int kN, class T>
__device__ inline void load_floats(const T* p, float (&v)[kN]) {
  widen(load_pack<kN>(p), v);
}

// The first in the low half.
__device__ inline unsigned round_bf16x2(float a, float b) {
#ifdef MOE_CUDA_ON_HOST
  return round_bf16(a).bits | static_cast<unsigned>(round_bf16(b).bits) << 16;
#else
  const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
  return *reinterpret_cast<const unsigned*>(&v);
#endif
}
// By functions of CUDA: what branches fill is else stored word by word.
__device__ inline void store_words(void* p, const unsigned (&w)[1]) { __stwb(static_cast<unsigned*>(p), w[0]); }
__device__ inline void store_words(void* p, const unsigned (&w)[2]) {
  __stwb(static_cast<uint2*>(p), make_uint2(w[0], w[1]));
}
__device__ inline void store_words(void* p, const unsigned (&w)[4]) {
  __stwb(static_cast<uint4*>(p), make_uint4(w[0], w[1], w[2], w[3]));
}
// to (=) from: one element, or 16 bytes of them.
template <int kN, class T>
__device__ inline void copy_pack(const T* from, T* to) {
  static_assert(kN == 1 || kN * sizeof(T) == sizeof(uint4));
  if constexpr (kN == 1)
    *to = *from;
  else
    __stwb(reinterpret_cast<uint4*>(to), *reinterpret_cast<const uint4*>(from));
}
template <int kN>
__device__ inline void store_floats(float* p, const float (&v)[kN]) {
  unsigned words[kN];
#pragma unroll
  for (int i = 0; i < kN; ++i) words[i] = __float_as_uint(v[i]);
  store_words(p, words);
}
template <int kN>
__device__ inline void store_floats(BF16* p, const float (&v)[kN]) {
  if constexpr (kN == 1) {
    put(p, v[0]);
  } else {
    unsigned words[kN / 2];
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) words[i] = round_bf16x2(v[2 * i], v[2 * i + 1]);
    store_words(p, words);
  }
}

// A matrix of either dtype that is small and read often, so that it may be asked for its type: weights of norms, biases.
struct Either {
  const void* data;
  bool is_bf16;
  explicit Either(const CMat& m) : data(m.data), is_bf16(m.dtype == DType::kBF16) {}
  template <int kN>
  __device__ inline void load(i64 at, float (&v)[kN]) const {
    if (is_bf16)
      load_floats(static_cast<const BF16*>(data) + at, v);
    else if constexpr (kN == 8)  // two accesses
      load_halves(static_cast<const float*>(data) + at, v);
    else
      load_floats(static_cast<const float*>(data) + at, v);
  }

 private:
  __device__ static inline void load_halves(const float* p, float (&v)[8]) {
    const Pack<4, float> low = load_pack<4>(p), high = load_pack<4>(p + 4);
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = low.v[i], v[4 + i] = high.v[i];
  }
};

// ---- Teams. A row belongs to a team: a power of two of threads, either of one warp or a whole block.

constexpr unsigned kMostThreads = 512;  // of a block, so that a thread may have 128 registers
struct Teams {
  unsigned blocks, threads, size;
};
// Teams so large that a thread has at most about packs_per_thread of the packs of its row.
inline Teams teams_for(i64 rows, i64 packs, int packs_per_thread) {
  require(rows < (i64{1} << 31) && packs < (i64{1} << 31), "CUDA: expected less than 2^31 rows, and packs of a row");
  unsigned size = 8;
  while (size < kMostThreads && size * packs_per_thread < packs) size *= 2;
  const unsigned threads = size > kWarp ? size : 4 * kWarp;
  return {blocks_for(rows, threads / size), threads, size};
}

// Where a thread stands.
struct Member {
  unsigned size, lane, row;
  __device__ explicit Member(unsigned team) : size(team) {
    const int shift = __ffs(static_cast<int>(team)) - 1;
    lane = threadIdx.x & (team - 1);
    row = blockIdx.x * (blockDim.x >> shift) + (threadIdx.x >> shift);
  }
  // The sum over the team, on every thread of it, in one order. Every thread of the block calls.
  __device__ float sum(float v) const {
    if (size > kWarp) return block_sum(v);
    for (unsigned d = size / 2; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffffu, v, static_cast<int>(d));
    return v;
  }
};

// ---- Walks. A thread has the packs lane, lane + size, ... of the n of its row. The first kKept of them are loaded at once,
// before any is needed, and stay in registers; wider rows are read again.

template <int kKept, class F>
__device__ inline void walk(unsigned n, const Member& me, F f) {
#pragma unroll
  for (int i = 0; i < kKept; ++i) {
    const unsigned j = me.lane + static_cast<unsigned>(i) * me.size;
    if (j < n) f(i, j);
  }
  for (unsigned j = me.lane + kKept * me.size; j < n; j += me.size) f(kKept, j);
}

template <int kKept, int kN, class T>
class Kept {
 public:
  __device__ Kept(const T* row, unsigned n, const Member& me) : row_(row) {
#pragma unroll
    for (int i = 0; i < kKept; ++i) {
      const unsigned j = me.lane + static_cast<unsigned>(i) * me.size;
      if (j < n) pack_[i] = load_pack<kN>(row + i64{j} * kN);
    }
  }
  // Of walk(), whose i is a constant after inlining.
  __device__ void get(int i, unsigned j, float (&v)[kN]) const {
    if (i < kKept)
      widen(pack_[i < kKept ? i : 0], v);
    else
      load_floats(row_ + i64{j} * kN, v);
  }

 private:
  const T* row_;
  Pack<kN, T> pack_[kKept];
};

}  // namespace moe::cuda
