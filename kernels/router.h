// What router.cpp and router_losses.cpp share: the choice of the largest keys. Included by kernels/router*.cpp only.
#pragma once

#include "kernels/dispatch.h"
#include "kernels/kernels.h"

namespace moe::MOE_ISA {

inline constexpr float kLowest = -3.402823466e38f;  // the key of what cannot be ordered

// key (=) score + bias, without what cannot be ordered: not-a-number and -inf become the lowest float, so that -inf is
// free to mean "may not be taken". Keys go on as -inf to the end of the last vector. key may be score.
static inline void make_keys(const float* score, const float* bias, i64 n, float* key) {
  const vf lowest = splat(kLowest);
  for_columns(n, [&](i64 j, auto lanes) {
    const vf z = bias ? load(score + j, lanes) + load(bias + j, lanes) : load(score + j, lanes);
    store(key + j,
          fill_rest(max(z, lowest), -__builtin_inff(), lanes));  // max is `lowest` where z is not a number; whole vector
  });
}

// The index of the largest of n keys, the lowest among equals. Each lane remembers the first vector that held its
// largest key; indices are floats, exact up to kMaxRoutedExperts.
static inline i64 index_of_largest(const float* key, i64 n) {
  vf largest = load(key), at = lane_numbers();
  for (i64 j = kWidth; j < n; j += kWidth) {
    const vf v = load(key + j);
    at = select(v > largest, lane_numbers() + splat(static_cast<float>(j)), at);
    largest = max(v, largest);
  }
  const vf candidates = select(largest == splat(max(largest)), -at, splat(-__builtin_inff()));
  return static_cast<i64>(-max(candidates));
}

// idx (=) the k largest of n keys, the lowest index first among equals, in falling order. Their keys become -inf. At
// least k keys must be above -inf.
static inline void take_largest(float* key, i64 n, i64 k, std::int32_t* idx) {
  for (i64 i = 0; i < k; ++i) {
    idx[i] = static_cast<std::int32_t>(index_of_largest(key, n));
    key[idx[i]] = -__builtin_inff();
  }
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

}  // namespace moe::MOE_ISA
