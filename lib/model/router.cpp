// The router half of `pre`: scores, choice, plan, balance losses, and what is counted about them.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "lib/model/linear.h"

namespace moe {
namespace {

std::int64_t capacity_of(const BlockContext& b, std::int64_t num_tokens) {
  if (b.balance.capacity_factor <= 0) return -1;
  const double mean = static_cast<double>(num_tokens) * b.config.top_k / b.config.num_experts;
  return static_cast<std::int64_t>(std::ceil(b.balance.capacity_factor * mean));
}

// f_i = E / (K T) * counts_i
void fractions_from_counts(const ModelConfig& c, std::span<const std::int64_t> counts, std::int64_t num_tokens,
                           std::span<float> f) {
  const double factor =
      static_cast<double>(c.num_experts) / (static_cast<double>(c.top_k) * static_cast<double>(num_tokens));
  for (std::size_t i = 0; i < counts.size(); ++i) f[i] = static_cast<float>(factor * static_cast<double>(counts[i]));
}

std::vector<std::int64_t> counts_of(const RoutePlan& plan, const ModelConfig& c, std::span<const std::int32_t> idx_TK) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(c.num_experts));
  if (plan.num_dropped == 0)
    for (std::size_t e = 0; e < counts.size(); ++e) counts[e] = plan.psum_rows_E1[e + 1] - plan.psum_rows_E1[e];
  else
    for (std::int32_t e : idx_TK) ++counts[static_cast<std::size_t>(e)];
  return counts;
}

void count_coactivation(const ModelConfig& c, std::span<const std::int32_t> idx_TK, std::vector<std::int64_t>& pairs_EE) {
  const auto K = static_cast<std::size_t>(c.top_k), E = static_cast<std::size_t>(c.num_experts);
  for (std::size_t t = 0; t < idx_TK.size(); t += K)
    for (std::size_t i = 0; i < K; ++i)
      for (std::size_t j = 0; j < K; ++j)
        ++pairs_EE[static_cast<std::size_t>(idx_TK[t + i]) * E + static_cast<std::size_t>(idx_TK[t + j])];
}

// Mean entropy needs a logarithm per score: every eighth token is enough for a metric.
constexpr std::int64_t kEntropyStride = 8;
double entropy_sum(const ModelConfig& c, std::span<const float> scores_TE, std::int64_t num_tokens) {
  double total = 0;
  const std::int64_t E = c.num_experts;
  for (std::int64_t t = 0; t < num_tokens; t += kEntropyStride) {
    const float* s = scores_TE.data() + t * E;
    double sum = 0, slogs = 0;
    for (std::int64_t e = 0; e < E; ++e) {
      sum += s[e];
      if (s[e] > 0) slogs += s[e] * std::log(s[e]);
    }
    if (sum > 0) total += std::log(sum) - slogs / sum;
  }
  return total * static_cast<double>(num_tokens) / static_cast<double>((num_tokens + kEntropyStride - 1) / kEntropyStride);
}

void tally_routing(const SegmentArgs& a) {
  const ModelConfig& c = a.block.config;
  const std::int64_t T = a.batch.shape.num_tokens();
  if (T == 0) return;
  RoutingTally& tally = *a.block.tally;
  const std::vector<std::int64_t> counts = counts_of(a.slot.plan, c, a.slot.idx_TK);
  for (std::size_t e = 0; e < counts.size(); ++e) tally.counts_E[e] += counts[e];
  count_coactivation(c, a.slot.idx_TK, tally.coactivation_EE);
  if (tally.records) tally.idx_N.insert(tally.idx_N.end(), a.slot.idx_TK.begin(), a.slot.idx_TK.end());
  tally.num_tokens += T;
  for (std::size_t e = 0; e < counts.size(); ++e) tally.micro_E1[e] += counts[e];
  tally.micro_E1.back() += T;
  tally.num_dropped += a.slot.plan.num_dropped;
  tally.entropy_sum += entropy_sum(c, a.slot.scores_TE, T);
}

// Every balance loss that is on: value into the tally, and with dscores / dlogits its gradient. One list for both passes.
struct BalanceTerms {
  const SegmentArgs& a;
  const BlockContext& b = a.block;
  std::int64_t T = a.batch.shape.num_tokens();
  RouterShape shape = b.router_shape();

  // P is the mean over the tokens here, f over those that counts_E1 counts: the loss is linear in P, so the shares of all
  // ranks add up to the loss of the whole.
  double one_segment(std::span<const std::int64_t> counts_E1, float alpha, float* dscores) const {
    const auto f = b.work.f_GE.first(counts_E1.size() - 1);
    fractions_from_counts(b.config, counts_E1.first(f.size()), counts_E1.back(), f);
    return b.env.kernels.router.balance_loss(b.env.stream, shape, a.slot.scores_TE.data(), 1, T, f.data(), alpha,
                                             a.batch.share, dscores);
  }
  double aux(float* dscores) const { return one_segment(b.tally->micro_E1, b.balance.aux, dscores); }
  double global_aux(float* dscores) const { return one_segment(b.tally->so_far_E1, b.balance.global_aux, dscores); }
  double seq_aux(float* dscores) const {
    const auto& [G, S] = a.batch.shape;
    const RouterKernels& k = b.env.kernels.router;
    k.count_top_k(b.env.stream, shape, a.slot.scores_TE.data(), G, S, b.work.counts_GE.data());
    const auto size = static_cast<std::size_t>(G) * static_cast<std::size_t>(shape.num_experts);
    fractions_from_counts(b.config, b.work.counts_GE.first(size), S, b.work.f_GE.first(size));
    return k.balance_loss(b.env.stream, shape, a.slot.scores_TE.data(), G, S, b.work.f_GE.data(), b.balance.seq_aux,
                          a.batch.share, dscores);
  }
  double z(float* dlogits) const {
    return b.env.kernels.router.z_loss(b.env.stream, shape, a.slot.logits_TE.data(), T, b.balance.z, a.batch.share, dlogits);
  }
};

Mat router_logits(std::span<float> logits_TE, const ModelConfig& c, std::int64_t T) {
  return mat(logits_TE.data(), T, c.num_experts);
}

}  // namespace

void RoutingTally::reset(int num_experts) {
  const auto E = static_cast<std::size_t>(num_experts);
  counts_E.assign(E, 0);
  coactivation_EE.assign(E * E, 0);
  micro_E1.assign(E + 1, 0);
  so_far_E1.assign(E + 1, 0);
  idx_N.clear();
  num_tokens = num_dropped = 0;
  entropy_sum = aux = seq_aux = global_aux = z = 0;
}

RouterShape BlockContext::router_shape() const {
  RouterShape shape = config.router_shape();
  if (config.max_nodes_per_token == 0 || config.max_nodes_per_token >= num_nodes) return shape;
  shape.expert2node = expert2node.data();
  shape.num_nodes = num_nodes;
  shape.num_nodes_kept = config.max_nodes_per_token;
  return shape;
}

void router_forward(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const std::int64_t T = a.batch.shape.num_tokens();
  linear_forward(b.env, s.n2_TD, *b.params.router, b.params.router_bias, router_logits(s.logits_TE, b.config, T),
                 Store::kAssign);
  const float* bias = b.router_bias_E.empty() ? nullptr : b.router_bias_E.data();
  k.router.forward(stream, b.router_shape(), s.logits_TE.data(), T, bias, s.scores_TE.data(), s.idx_TK.data(),
                   s.gate_TK.data());
  s.plan.num_dropped = k.permute.plan(stream, s.idx_TK, b.config.num_experts, capacity_of(b, T), s.plan.psum_rows_E1.data(),
                                      s.plan.slot2row_N.data(), s.plan.row2slot_N.data());
  s.plan.num_kept = s.plan.psum_rows_E1.back();
  if (a.batch.tally) tally_routing(a);
}

void router_backward_input(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const std::int64_t T = a.batch.shape.num_tokens();
  if (T == 0) return;
  const RouterShape shape = b.router_shape();
  const BalanceTerms terms{a};
  RoutingTally& tally = *b.tally;
  float* d = b.stash.dlogits_TE.data();
  k.router.backward_gates(stream, shape, s.scores_TE.data(), T, s.idx_TK.data(), b.work.dgate_TK.data(), d);
  const double share = a.batch.share;
  if (b.balance.aux > 0) tally.aux += share * terms.aux(d);
  if (b.balance.seq_aux > 0) tally.seq_aux += share * terms.seq_aux(d);
  if (b.balance.global_aux > 0) tally.global_aux += share * terms.global_aux(d);
  k.router.backward_scores(stream, shape, s.scores_TE.data(), T, d, d);
  if (b.balance.z > 0) tally.z += share * terms.z(d);
  k.gemm.backward_input(stream, router_logits(b.stash.dlogits_TE, b.config, T), b.params.router->weight, b.stash.dn2_TD,
                        Store::kAdd);
}

void router_backward_weight(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  const Mat dlogits = router_logits(b.stash.dlogits_TE, b.config, a.batch.shape.num_tokens());
  linear_backward_weight(b.env, dlogits, a.slot.n2_TD, *b.params.router, b.params.router_bias);
}

}  // namespace moe
