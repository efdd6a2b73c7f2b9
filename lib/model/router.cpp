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

// f_n (=) E / (K T) * counts_n
void fractions(const BlockContext& b, const BalanceCounts& counts, std::int64_t num_tokens, std::span<float> f_n) {
  const ModelConfig& c = b.config;
  const double factor =
      static_cast<double>(c.num_experts) / (static_cast<double>(c.top_k) * static_cast<double>(num_tokens));
  b.env.kernels.router.fractions(b.env.stream, counts.counts_E, counts.before_E, factor, f_n);
}

void tally_routing(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  const std::int64_t T = a.batch.shape.num_tokens();
  if (T == 0) return;
  RoutingTally& tally = *b.tally;
  const TallyRoom& room = b.tally_room;
  b.env.kernels.router.tally(b.env.stream, b.router_shape(), a.slot.scores_TE.data(), T, a.slot.idx_TK.data(),
                             room.counts_E.data(), room.coactivation_EE.data(), room.entropy);
  if (tally.records) {
    std::vector<std::int32_t> idx_N(a.slot.idx_TK.size());
    b.env.stream.copy(idx_N.data(), a.slot.idx_TK.data(), a.slot.idx_TK.size_bytes());
    b.env.stream.synchronize();
    tally.idx_N.insert(tally.idx_N.end(), idx_N.begin(), idx_N.end());
  }
  tally.num_tokens += T;
  tally.num_dropped += a.slot.plan.num_dropped;
  tally.micro_tokens += T;
}

// Every balance loss that is on: its value into the tally's room, its gradient into dscores or dlogits.
struct BalanceTerms {
  const SegmentArgs& a;
  const BlockContext& b = a.block;
  const TallyRoom& room = b.tally_room;
  const RouterKernels& k = b.env.kernels.router;
  std::int64_t T = a.batch.shape.num_tokens();
  RouterShape shape = b.router_shape();

  // P is the mean over the tokens here, f over those of all ranks: the loss is linear in P, so the shares of all ranks add
  // up to the loss of the whole.
  void one_segment(const BalanceCounts& counts, std::int64_t num_tokens, float alpha, float* dscores, double* loss) const {
    const auto f = b.work.f_GE.first(static_cast<std::size_t>(shape.num_experts));
    fractions(b, counts, num_tokens, f);
    k.balance_loss(b.env.stream, shape, a.slot.scores_TE.data(), 1, T, f.data(), alpha, a.batch.share, dscores, loss);
  }
  void aux(float* dscores) const { one_segment(room.micro, b.tally->micro_tokens, b.balance.aux, dscores, room.aux); }
  void global_aux(float* dscores) const {
    one_segment(room.so_far, b.tally->so_far_tokens, b.balance.global_aux, dscores, room.global_aux);
  }
  void seq_aux(float* dscores) const {
    const auto& [G, S] = a.batch.shape;
    const auto f = b.work.f_GE.first(static_cast<std::size_t>(G) * static_cast<std::size_t>(shape.num_experts));
    k.count_top_k(b.env.stream, shape, a.slot.scores_TE.data(), G, S, b.work.counts_GE.data());
    fractions(b, {b.work.counts_GE.data()}, S, f);
    k.balance_loss(b.env.stream, shape, a.slot.scores_TE.data(), G, S, f.data(), b.balance.seq_aux, a.batch.share, dscores,
                   room.seq_aux);
  }
  void z(float* dlogits) const {
    k.z_loss(b.env.stream, shape, a.slot.logits_TE.data(), T, b.balance.z, a.batch.share, dlogits, room.z);
  }
};

Mat router_logits(std::span<float> logits_TE, const ModelConfig& c, std::int64_t T) {
  return mat(logits_TE.data(), T, c.num_experts);
}

}  // namespace

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
  float* d = b.stash.dlogits_TE.data();
  k.router.backward_gates(stream, shape, s.scores_TE.data(), T, s.idx_TK.data(), b.work.dgate_TK.data(), d);
  if (b.balance.aux > 0) terms.aux(d);
  if (b.balance.seq_aux > 0) terms.seq_aux(d);
  if (b.balance.global_aux > 0) terms.global_aux(d);
  k.router.backward_scores(stream, shape, s.scores_TE.data(), T, d, d);
  if (b.balance.z > 0) terms.z(d);
  k.gemm.backward_input(stream, router_logits(b.stash.dlogits_TE, b.config, T), b.params.router->weight, b.stash.dn2_TD,
                        Store::kAdd);
}

void router_backward_weight(const SegmentArgs& a) {
  const BlockContext& b = a.block;
  const Mat dlogits = router_logits(b.stash.dlogits_TE, b.config, a.batch.shape.num_tokens());
  linear_backward_weight(b.env, dlogits, a.slot.n2_TD, *b.params.router, b.params.router_bias);
}

}  // namespace moe
