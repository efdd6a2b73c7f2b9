// Kernels that do something to each element of a few arrays, four elements a thread where all of them are aligned for it.
// Included by kernels/*.cu only. Not here: rows with strides.
#pragma once

#include "kernels/cuda.h"

namespace moe::cuda {

inline constexpr unsigned kElementThreads = 256;

// kN neighbouring elements as one access.
template <int kN, class T>
__device__ inline Pack<kN, T>& pack_at(T* p) {
  return *reinterpret_cast<Pack<kN, T>*>(p);
}
template <int kN, class T>
__device__ inline const Pack<kN, T>& pack_at(const T* p) {
  return *reinterpret_cast<const Pack<kN, T>*>(p);
}
inline bool fits_pack(const void* p, std::size_t bytes) { return reinterpret_cast<std::uintptr_t>(p) % bytes == 0; }

// f.run<kN>(i) does elements [i, i + kN), the same to each for any kN.
template <class F>
__global__ void elements_kernel(i64 n, bool aligned, F f) {
  const i64 thread = i64{blockIdx.x} * kElementThreads + threadIdx.x, threads = i64{gridDim.x} * kElementThreads;
  const i64 packs = aligned ? n / 4 : 0;
  for (i64 p = thread; p < packs; p += threads) f.template run<4>(4 * p);
  for (i64 i = 4 * packs + thread; i < n; i += threads) f.template run<1>(i);
}
template <class F>
void for_elements(Queue& q, i64 n, bool aligned, const F& f) {
  constexpr i64 kPerBlock = 8 * kElementThreads, kMostBlocks = i64{1} << 20;
  const i64 blocks = (n + kPerBlock - 1) / kPerBlock;
  launch(q, elements_kernel<F>, static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks), kElementThreads, 0, n,
         aligned, f);
}

}  // namespace moe::cuda
