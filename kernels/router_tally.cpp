// What a router decided, added up for metrics and placement (kernels.h). One thread: some integers a token.
#include "kernels/router.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kEntropyStride = 8;  // a logarithm a score: every eighth token is enough for a metric

double token_entropy(const float* s, i64 E) {
  double sum = 0, slogs = 0;
  for (i64 e = 0; e < E; ++e) {
    sum += s[e];
    if (s[e] > 0) slogs += s[e] * __builtin_logf(s[e]);
  }
  return sum > 0 ? __builtin_log(sum) - slogs / sum : 0.0;
}

}  // namespace

void router_tally(Stream&, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                  const std::int32_t* idx_TK, std::int64_t* counts_E, std::int64_t* coactivation_EE, double* entropy) {
  const i64 E = shape.num_experts, K = shape.top_k;
  if (num_tokens == 0) return;
  expect_range("router.tally", "expert", idx_TK, num_tokens * K, 0, E);
  for (const std::int32_t* idx = idx_TK; idx < idx_TK + num_tokens * K; idx += K)
    for (i64 i = 0; i < K; ++i) {
      ++counts_E[idx[i]];
      for (i64 j = 0; j < K; ++j) ++coactivation_EE[idx[i] * E + idx[j]];
    }
  double total = 0;
  for (i64 t = 0; t < num_tokens; t += kEntropyStride) total += token_entropy(scores_TE + t * E, E);
  *entropy +=
      total * static_cast<double>(num_tokens) / static_cast<double>((num_tokens + kEntropyStride - 1) / kEntropyStride);
}

}  // namespace moe::MOE_ISA
