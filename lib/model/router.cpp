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

// f_i = E / (K T) * counts_i, of counts of the host into memory of the device.
void fractions_from_counts(const BlockContext& b, std::span<const std::int64_t> counts, std::int64_t num_tokens,
                           std::span<float> to) {
  const ModelConfig& c = b.config;
  std::vector<float> f(counts.size());
  const double factor =
      static_cast<double>(c.num_experts) / (static_cast<double>(c.top_k) * static_cast<double>(num_tokens));
  for (std::size_t i = 0; i < counts.size(); ++i) f[i] = static_cast<float>(factor * static_cast<double>(counts[i]));
  b.env.stream.copy(to.data(), f.data(), to.size_bytes());
}

void tally_routing(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  const std::int64_t T = a.batch.shape.num_tokens();
  if (T == 0) return;
  RoutingTally& tally = *b.tally;
  const TallyRoom& room = b.tally_room;
  b.env.kernels.router.tally(b.env.stream, b.router_shape(), a.slot.scores_TE.data(), T, a.slot.idx_TK.data(),
                             room.counts_E.data(), room.coactivation_EE.data(), room.entropy.data());
  if (tally.records) {
    std::vector<std::int32_t> idx_N(a.slot.idx_TK.size());
    b.env.stream.copy(idx_N.data(), a.slot.idx_TK.data(), a.slot.idx_TK.size_bytes());
    b.env.stream.synchronize();
    tally.idx_N.insert(tally.idx_N.end(), idx_N.begin(), idx_N.end());
  }
  tally.num_tokens += T;
  tally.num_dropped += a.slot.plan.num_dropped;
  if (b.balance.aux > 0 || b.balance.global_aux > 0) pull_counts(b.env.stream, room, tally);
  tally.micro_E1.back() += T;
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
    fractions_from_counts(b, counts_E1.first(f.size()), counts_E1.back(), f);
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
    std::vector<std::int64_t> counts_GE(size);
    b.env.stream.copy(counts_GE.data(), b.work.counts_GE.data(), size * sizeof counts_GE[0]);
    b.env.stream.synchronize();
    fractions_from_counts(b, counts_GE, S, b.work.f_GE.first(size));
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

TallyRoom take_tally_room(Arena& arena, int num_experts) {
  return {arena.vector<std::int64_t>(num_experts), arena.vector<std::int64_t>(std::int64_t{num_experts} * num_experts),
          arena.vector<double>(1)};
}

void TallyRoom::zero(Stream& stream) const {
  stream.zero(counts_E.data(), counts_E.size_bytes());
  stream.zero(coactivation_EE.data(), coactivation_EE.size_bytes());
  stream.zero(entropy.data(), entropy.size_bytes());
}

void pull_tally(Stream& stream, const TallyRoom& room, RoutingTally& tally) {
  stream.copy(tally.counts_E.data(), room.counts_E.data(), room.counts_E.size_bytes());
  stream.copy(tally.coactivation_EE.data(), room.coactivation_EE.data(), room.coactivation_EE.size_bytes());
  stream.copy(&tally.entropy_sum, room.entropy.data(), room.entropy.size_bytes());
}

void pull_counts(Stream& stream, const TallyRoom& room, RoutingTally& tally) {
  const std::vector<std::int64_t> before = tally.counts_E;
  stream.copy(tally.counts_E.data(), room.counts_E.data(), room.counts_E.size_bytes());
  stream.synchronize();
  for (std::size_t e = 0; e < before.size(); ++e) tally.micro_E1[e] += tally.counts_E[e] - before[e];
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
  s.plan.num_kept = static_cast<std::int64_t>(s.idx_TK.size()) - s.plan.num_dropped;
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
