// What a router decided, added up for metrics and placement, on CUDA (kernels.h; router_tally.cpp has the rules). Nothing is
// waited for: all of it stays on the device. Not here: the routing itself.
#include "kernels/cuda_router.h"
#include "kernels/cuda_sums.h"

namespace moe::cuda {
namespace {

constexpr i64 kEntropyStride = 8;  // a logarithm a score: every eighth token is enough for a metric
constexpr unsigned kWarps = 8, kThreads = kWarps * kWarp;

// A thread a slot. Sums of integers: their order does not matter.
__global__ void slots_kernel(const std::int32_t* idx_TK, i64 num_slots, int K, i64 E, unsigned long long* counts_E,
                             unsigned long long* coactivation_EE) {
  const i64 slot = i64{blockIdx.x} * kThreads + threadIdx.x;
  if (slot >= num_slots) return;
  const std::int32_t *const idx_K = idx_TK + slot / K * K, e = idx_TK[slot];
  atomicAdd(counts_E + e, 1ull);
  for (int k = 0; k < K; ++k) atomicAdd(coactivation_EE + e * E + idx_K[k], 1ull);
}

// A warp a token that is looked at.
__global__ void entropy_kernel(const float* scores_TE, i64 num_looked_at, i64 E, double* part) {
  const i64 i = i64{blockIdx.x} * kWarps + threadIdx.x / kWarp;
  const float* const s = scores_TE + i * kEntropyStride * E;
  double sum = 0, slogs = 0;
  for (i64 e = threadIdx.x % kWarp; i < num_looked_at && e < E; e += kWarp) {
    sum += static_cast<double>(s[e]);
    if (s[e] > 0) slogs += static_cast<double>(s[e] * logf(s[e]));
  }
  sum = warp_sum(sum), slogs = warp_sum(slogs);
  leave_part(sum > 0 ? log(sum) - slogs / sum : 0.0, part);
}

}  // namespace

void router_tally(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_tokens,
                  const std::int32_t* idx_TK, std::int64_t* counts_E, std::int64_t* coactivation_EE, double* entropy) {
  const i64 E = shape.num_experts, num_slots = num_tokens * shape.top_k;
  if (num_tokens == 0) return;
  Queue& q = queue_of(stream);
  launch(q, slots_kernel, blocks_for(num_slots, kThreads), kThreads, 0, idx_TK, num_slots, shape.top_k, E,
         reinterpret_cast<unsigned long long*>(counts_E), reinterpret_cast<unsigned long long*>(coactivation_EE));
  const i64 looked_at = (num_tokens + kEntropyStride - 1) / kEntropyStride;
  const unsigned blocks = blocks_for(looked_at, kWarps);
  double* const part = q.scratch_of<double>(blocks);
  launch(q, entropy_kernel, blocks, kThreads, 0, scores_TE, looked_at, E, part);
  add_parts(q, part, blocks, static_cast<double>(num_tokens) / static_cast<double>(looked_at), true, entropy);
}

}  // namespace moe::cuda
