// Losses that keep routers balanced and their logits small, and the counts that they need, on CUDA (kernels.h;
// router_losses.cpp has the formulas). A warp a token; values are sums of double over fixed blocks of tokens, which stay on
// the device. Not here: the routing itself.
#include "kernels/cuda_router.h"
#include "kernels/cuda_sums.h"

namespace moe::cuda {
namespace {

constexpr unsigned kWarps = 8, kThreads = kWarps * kWarp;
constexpr int kTokensPerWarp = 2;

// Counts are sums of integers: their order does not matter.
__global__ void __launch_bounds__(kRouterThreads)
    count_kernel(const float* scores_TE, int E, int K, i64 num_tokens, i64 tokens_per_segment, unsigned long long* counts_GE,
                 KeyMemory memory) {
  unsigned* const key_E = keys_of_warp(memory);
  const i64 first = i64{blockIdx.x} * kRouterWarps + threadIdx.x / kWarp, step = i64{gridDim.x} * kRouterWarps;
  for (i64 t = first; t < num_tokens; t += step) {
    for_own(E, [&](int e) { key_E[e] = make_key(scores_TE[t * E + e]); });
    for (int k = 0; k < K; ++k) {
      const int e = take_largest(key_E, E).at;
      if (lane_id() == k % kWarp) atomicAdd(counts_GE + t / tokens_per_segment * E + e, 1ull);
    }
  }
}

// part (=) sums over tokens of of_token(t), which every lane of a warp has.
template <class OfToken>
__device__ void sum_tokens(i64 num_tokens, double* part, OfToken of_token) {
  const i64 first = (i64{blockIdx.x} * kWarps + threadIdx.x / kWarp) * kTokensPerWarp;
  double sum = 0;
  for (i64 t = first; t < first + kTokensPerWarp && t < num_tokens; ++t) sum += of_token(t);
  leave_part(sum, part);
}

// q = (sum f_i s_i) / (sum s_i); ds (+=) factor * (f_i - q) / sum s.
__global__ void balance_kernel(const float* scores_TE, const float* f_GE, int E, i64 num_tokens, i64 tokens_per_segment,
                               float factor, float* dscores_TE, double* part) {
  sum_tokens(num_tokens, part, [&](i64 t) -> double {
    const float *const s = scores_TE + t * E, *const f = f_GE + t / tokens_per_segment * E;
    float sum = 0, weighted = 0;
    for_own(E, [&](int e) { sum += s[e], weighted += s[e] * f[e]; });
    sum = warp_sum(sum) + 1e-20f;
    const float q = warp_sum(weighted) / sum, slope = factor / sum;
    if (dscores_TE) for_own(E, [&](int e) { dscores_TE[t * E + e] += slope * (f[e] - q); });
    return q;
  });
}

// logsumexp(l)^2; dl (+=) factor * 2 * logsumexp * softmax.
__global__ void z_kernel(const float* logits_TE, int E, i64 num_tokens, float factor, float* dlogits_TE, double* part) {
  sum_tokens(num_tokens, part, [&](i64 t) {
    const float* const l = logits_TE + t * E;
    float largest = -__builtin_inff(), sum = 0;
    for_own(E, [&](int e) { largest = fmaxf(largest, l[e]); });
    largest = warp_max(largest);
    for_own(E, [&](int e) { sum += expf(l[e] - largest); });
    sum = warp_sum(sum);
    const double lse = log(static_cast<double>(sum)) + static_cast<double>(largest);
    const float slope = static_cast<float>(2.0 * lse * static_cast<double>(factor)) / sum;
    if (dlogits_TE) for_own(E, [&](int e) { dlogits_TE[t * E + e] += slope * expf(l[e] - largest); });
    return lse * lse;
  });
}

// Parts of a sum over tokens.
struct TokenSum {
  Queue& q;
  unsigned blocks;
  double* part;
  TokenSum(Stream& stream, i64 num_tokens)
      : q(queue_of(stream)), blocks(blocks_for(num_tokens, kWarps * kTokensPerWarp)), part(q.scratch_of<double>(blocks)) {}
  void add_to(double* loss, double factor) { add_parts(q, part, blocks, factor, true, loss); }
};

}  // namespace

void router_count_top_k(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_segments,
                        std::int64_t tokens_per_segment, std::int64_t* counts_GE) {
  const i64 E = shape.num_experts, K = shape.top_k, T = num_segments * tokens_per_segment;
  require(E >= 1 && K >= 1 && K <= E && E <= kMaxRoutedExperts, "router.count_top_k: expected 1 <= top_k <= experts");
  Queue& q = queue_of(stream);
  stream.zero(counts_GE, sizeof(std::int64_t) * static_cast<std::size_t>(num_segments * E));
  if (T == 0) return;
  const KeyMemory memory = key_memory(q, T, E);
  launch(q, count_kernel, memory.blocks, kRouterThreads, memory.shared_bytes, scores_TE, shape.num_experts, shape.top_k, T,
         tokens_per_segment, reinterpret_cast<unsigned long long*>(counts_GE), memory);
}

__global__ void fractions_kernel(const i64* counts_n, const i64* before_n, double factor, i64 n, float* f_n) {
  const i64 i = i64{blockIdx.x} * kThreads + threadIdx.x;
  if (i < n) f_n[i] = static_cast<float>(factor * static_cast<double>(counts_n[i] - (before_n ? before_n[i] : 0)));
}

void router_fractions(Stream& stream, const std::int64_t* counts_n, const std::int64_t* before_n, double factor,
                      std::span<float> f_n) {
  const i64 n = static_cast<i64>(f_n.size());
  launch(queue_of(stream), fractions_kernel, blocks_for(n, kThreads), kThreads, 0, counts_n, before_n, factor, n,
         f_n.data());
}

void router_balance_loss(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_segments,
                         std::int64_t tokens_per_segment, const float* f_GE, float alpha, float scale, float* dscores_TE,
                         double* loss) {
  require(shape.num_experts >= 1 && num_segments >= 0 && tokens_per_segment >= 0,
          "router.balance_loss: expected at least one expert");
  const i64 T = num_segments * tokens_per_segment;
  if (T == 0) return;
  const double factor = static_cast<double>(alpha) * scale / static_cast<double>(T);
  TokenSum sum(stream, T);
  launch(sum.q, balance_kernel, sum.blocks, kThreads, 0, scores_TE, f_GE, shape.num_experts, T, tokens_per_segment,
         static_cast<float>(factor), dscores_TE, sum.part);
  sum.add_to(loss, factor);
}

void router_z_loss(Stream& stream, const RouterShape& shape, const float* logits_TE, std::int64_t num_tokens, float coef,
                   float scale, float* dlogits_TE, double* loss) {
  require(shape.num_experts >= 1 && num_tokens >= 0, "router.z_loss: expected at least one expert");
  const i64 T = num_tokens;
  if (T == 0) return;
  const double factor = static_cast<double>(coef) * scale / static_cast<double>(T);
  TokenSum sum(stream, T);
  launch(sum.q, z_kernel, sum.blocks, kThreads, 0, logits_TE, shape.num_experts, T, static_cast<float>(factor), dlogits_TE,
         sum.part);
  sum.add_to(loss, factor);
}

}  // namespace moe::cuda
