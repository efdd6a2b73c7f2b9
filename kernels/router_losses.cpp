// Losses that keep routers balanced and their logits small, and the counts that they need (kernels.h; Switch Transformer,
// ST-MoE, DeepSeek-V3 section 2.1.2). Values are sums of double over fixed blocks of tokens. Not here: the routing itself.
#include "kernels/router.h"
#include "kernels/softmax.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kTokensPerBlock = 64;

// Rounded before it is added, so that all instruction sets give the same bits.
[[gnu::noinline]] double product(double a, double b) { return a * b; }

void check(bool ok, const char* message) { require(ok, message); }

// Share of one token in the balance loss: q = (sum f_i s_i) / (sum s_i). The mean of q over a segment is sum f_i P_i.
// If ds is not null: ds (+=) factor * dq/ds_i = factor * (f_i - q) / sum s.
double token_balance(const float* s, const float* f, i64 E, float factor, float* ds) {
  const float sum = sum_columns(E, [&](i64 j, auto n) { return load(s + j, n); }) + 1e-20f;
  const float q = sum_columns(E, [&](i64 j, auto n) { return load(s + j, n) * load(f + j, n); }) / sum;
  const vf slope = splat(factor / sum);
  if (ds) for_columns(E, [&](i64 j, auto n) { store(ds + j, load(ds + j, n) + slope * (load(f + j, n) - splat(q)), n); });
  return q;
}

// logsumexp(l)^2 of one token. If dl is not null: dl (+=) factor * 2 * logsumexp * softmax.
double token_z(const float* l, i64 E, float factor, float* dl) {
  const float largest = row_max(l, E), sum = row_exp_sum(l, E, largest, nullptr);
  const double lse = __builtin_log(static_cast<double>(sum)) + static_cast<double>(largest);
  const vf slope = splat(static_cast<float>(2.0 * lse * static_cast<double>(factor)) / sum);
  if (dl)
    for_columns(E, [&](i64 j, auto n) { store(dl + j, load(dl + j, n) + slope * exp(load(l + j, n) - splat(largest)), n); });
  return lse * lse;
}

}  // namespace

// Segments are shared out to threads; each owns its row of counts.
void router_count_top_k(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_segments,
                        std::int64_t tokens_per_segment, std::int64_t* counts_GE) {
  const i64 E = shape.num_experts, K = shape.top_k;
  check(E >= 1 && K >= 1 && K <= E && E <= kMaxRoutedExperts, "router.count_top_k: expected 1 <= top_k <= experts");
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, num_segments* tokens_per_segment* E * 8))
  for (i64 g = 0; g < num_segments; ++g) {
    float* key_E = reinterpret_cast<float*>(stream.scratch(omp_get_thread_num()));
    std::int32_t* idx_K = reinterpret_cast<std::int32_t*>(key_E + 2 * kMaxRoutedExperts);
    for (i64 e = 0; e < E; ++e) counts_GE[g * E + e] = 0;
    for (i64 t = g * tokens_per_segment; t < (g + 1) * tokens_per_segment; ++t) {
      make_keys(scores_TE + t * E, nullptr, E, key_E);
      take_largest(key_E, E, K, idx_K);
      for (i64 k = 0; k < K; ++k) ++counts_GE[g * E + idx_K[k]];
    }
  }
}

void router_fractions(Stream&, const std::int64_t* counts_n, const std::int64_t* before_n, double factor,
                      std::span<float> f_n) {
  for (std::size_t i = 0; i < f_n.size(); ++i)
    f_n[i] = static_cast<float>(factor * static_cast<double>(counts_n[i] - (before_n ? before_n[i] : 0)));
}

void router_balance_loss(Stream& stream, const RouterShape& shape, const float* scores_TE, std::int64_t num_segments,
                         std::int64_t tokens_per_segment, const float* f_GE, float alpha, float scale, float* dscores_TE,
                         double* loss) {
  check(shape.num_experts >= 1 && num_segments >= 0 && tokens_per_segment >= 0,
        "router.balance_loss: expected at least one expert");
  const i64 E = shape.num_experts, T = num_segments * tokens_per_segment;
  if (T == 0) return;
  const float factor = static_cast<float>(static_cast<double>(alpha) * scale / static_cast<double>(T));
  const double total = ordered_sum(stream, T, kTokensPerBlock, threads_for(stream, T * E * 12), [&](i64 begin, i64 end) {
    double sum = 0;
    for (i64 t = begin; t < end; ++t)
      sum += token_balance(scores_TE + t * E, f_GE + t / tokens_per_segment * E, E, factor,
                           dscores_TE ? dscores_TE + t * E : nullptr);
    return sum;
  });
  *loss += product(scale, static_cast<double>(alpha) * total / static_cast<double>(T));
}

void router_z_loss(Stream& stream, const RouterShape& shape, const float* logits_TE, std::int64_t num_tokens, float coef,
                   float scale, float* dlogits_TE, double* loss) {
  check(shape.num_experts >= 1 && num_tokens >= 0, "router.z_loss: expected at least one expert");
  const i64 E = shape.num_experts, T = num_tokens;
  if (T == 0) return;
  const float factor = static_cast<float>(static_cast<double>(coef) * scale / static_cast<double>(T));
  const double total = ordered_sum(stream, T, kTokensPerBlock, threads_for(stream, T * E * 12), [&](i64 begin, i64 end) {
    double sum = 0;
    for (i64 t = begin; t < end; ++t)
      sum += token_z(logits_TE + t * E, E, factor, dlogits_TE ? dlogits_TE + t * E : nullptr);
    return sum;
  });
  *loss += product(scale, static_cast<double>(coef) * total / static_cast<double>(T));
}

}  // namespace moe::MOE_ISA
