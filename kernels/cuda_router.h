// What router.cu and router_losses.cu share: a warp has a token, lane l the experts l, l + 32, ...; the order of keys and
// the choice of the largest (kernels/router.h has the same for the CPU). Included by kernels/router*.cu only.
#pragma once

#include "kernels/cuda.h"

namespace moe::cuda {

inline constexpr unsigned kAllLanes = 0xffffffffu;
inline constexpr float kLowest = -3.402823466e38f;  // the key of what cannot be ordered
inline constexpr unsigned kRouterWarps = 4, kRouterThreads = kRouterWarps * kWarp;

// Keys are unsigned numbers in the order of the floats they stand for; 0 stands for none: "may not be taken". Both zeros
// are one key; what cannot be ordered (not-a-number, -inf) has the key of the lowest float.
__device__ inline unsigned make_key(float score) {
  const unsigned bits = __float_as_uint(score > kLowest ? (score == 0.0f ? 0.0f : score) : kLowest);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ inline float score_of(unsigned key) { return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key); }

__device__ inline int lane_id() { return static_cast<int>(threadIdx.x % kWarp); }
// f(i) for the i of 0 .. n - 1 that are this lane's; all lanes stay together.
template <class F>
__device__ inline void for_own(int n, F f) {
#pragma unroll 4
  for (int first = 0; first < n; first += kWarp)
    if (const int i = first + lane_id(); i < n) f(i);
}

struct Largest {
  unsigned key;  // 0: nothing may be taken
  int at;
};
// The largest of n keys among those that `allowed(index, key)`, the lowest index among equals, on every lane. A lane looks
// at its own indices only.
template <class Allowed>
__device__ inline Largest warp_largest(const unsigned* key_n, int n, Allowed allowed) {
  Largest best = {0, n};
  for_own(n, [&](int i) {
    if (const unsigned key = key_n[i]; key > best.key && allowed(i, key)) best = {key, i};
  });
  const unsigned key = __reduce_max_sync(kAllLanes, best.key);
  return {key, __reduce_min_sync(kAllLanes, best.key == key ? best.at : n)};
}
__device__ inline Largest warp_largest(const unsigned* key_n, int n) {
  return warp_largest(key_n, n, [](int, unsigned) { return true; });
}
// The same; it may not be taken again.
__device__ inline Largest take_largest(unsigned* key_n, int n) {
  const Largest top = warp_largest(key_n, n);
  if (top.key != 0 && top.at % kWarp == lane_id()) key_n[top.at] = 0;
  return top;
}

// Where warps have their keys: in shared memory, or where they do not fit, few warps at a time, in scratch.
struct KeyMemory {
  i64 per_warp;
  unsigned* scratch;  // nullptr: shared
  unsigned blocks;
  std::size_t shared_bytes;
};
// For tokens of so many keys, with `others` keys of scratch in front.
inline KeyMemory key_memory(Queue& q, i64 num_tokens, i64 keys_per_token, i64 others = 0) {
  constexpr std::size_t kMostShared = 200 * 1024;
  constexpr unsigned kMostBlocks = 64;
  const std::size_t bytes = sizeof(unsigned) * kRouterWarps * static_cast<std::size_t>(keys_per_token);
  const unsigned blocks = blocks_for(num_tokens, kRouterWarps);
  if (bytes <= kMostShared) return {keys_per_token, nullptr, blocks, bytes};
  const unsigned few = blocks < kMostBlocks ? blocks : kMostBlocks;
  return {keys_per_token, q.scratch_of<unsigned>(others + keys_per_token * kRouterWarps * few) + others, few, 0};
}
__device__ inline unsigned* keys_of_warp(const KeyMemory& memory) {
  const i64 warp = threadIdx.x / kWarp;
  if (memory.scratch == nullptr) return shared_of<unsigned>() + warp * memory.per_warp;
  return memory.scratch + (i64{blockIdx.x} * kRouterWarps + warp) * memory.per_warp;
}

void router_count_top_k(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_segments,
                        std::int64_t tokens_per_segment, std::int64_t* counts_GE);
void router_fractions(Stream& stream, const std::int64_t* counts_n, const std::int64_t* before_n, double factor,
                      std::span<float> f_n);
void router_balance_loss(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_segments,
                         std::int64_t tokens_per_segment, const float* f_GE, float alpha, float scale, float* dscores_TE,
                         double* loss);
void router_z_loss(Stream& stream, const RouterShape& shape, const float* logits_TE, std::int64_t num_tokens, float coef,
                   float scale, float* dlogits_TE, double* loss);
void router_tally(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                  const std::int32_t* idx_TK, std::int64_t* counts_E, std::int64_t* coactivation_EE, double* entropy);

}  // namespace moe::cuda
