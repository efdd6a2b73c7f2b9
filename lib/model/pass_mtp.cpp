// The modules of multi-token prediction in a pass, behind the last block and the final norm. Their logits take turns in the
// memory of the model's: the gradient of a module's logits goes through the head at once, in forward, and only that of its
// hidden state waits for backward. Not here: what a module is (mtp.h).
#include <algorithm>

#include "lib/model/track.h"

namespace moe {
namespace {

void zero(Stream& stream, Mat m) {  // rows lie side by side
  stream.zero(m.data, static_cast<std::size_t>(m.rows * m.cols) * size_of(m.dtype));
}

MtpJoin join_of(const Env& env, const ModelConfig& config, const BlockParams& params, const Track& t, int k) {
  return {env, config, params, t.mtp_tokens[static_cast<std::size_t>(k)], t.slots.front().x0_TD, t.hidden(k), t.mtp_work};
}

}  // namespace

std::vector<std::int32_t> Pass::greedy() const {
  const Track& t = *tracks_.front();
  std::vector<std::int32_t> token_T(static_cast<std::size_t>(t.logits_TV.rows));
  env_.kernels.cross_entropy.greedy(env_.stream, t.logits_TV, t.greedy_room.data());
  env_.stream.copy(token_T.data(), t.greedy_room.data(), token_T.size() * sizeof token_T[0]);
  env_.stream.synchronize();
  return token_T;
}

// Cross-entropy over the module's counted targets; with gradient, what the head's gradient and dh get of it.
void Pass::module_loss(Track& t, int k) {
  const MtpSlot& m = t.mtp[static_cast<std::size_t>(k)];
  MtpTokens& tokens = t.mtp_tokens[static_cast<std::size_t>(k)];
  env_.kernels.gemm.forward(env_.stream, m.h_TD, model_.head().weight, t.logits_TV, Store::kAssign);
  const auto& scales = t.batch.mtp_scale_D;
  const double scale = t.batch.with_gradient && !scales.empty() ? scales[static_cast<std::size_t>(k)] : 0;
  env_.kernels.cross_entropy.forward(env_.stream, t.logits_TV, t.mtp_target(k), static_cast<float>(scale), nullptr,
                                     tallies_->loss(k));
  if (scale != 0)
    head_backward(t, m.h_TD, m.dh_TD);
  else if (t.batch.with_gradient)
    zero(env_.stream, m.dh_TD);
  if (t.batch.with_gradient || k > 0) return;
  t.greedy_T = greedy();
  for (std::size_t i = 0; i < t.greedy_T.size(); ++i)
    if (tokens.target_T[i] < 0) t.greedy_T[i] = -1;
}

void Pass::forward_modules(const MicroBatch& batch) {
  Units& units = model_.units();
  const ModelConfig& c = model_.config();
  if (batch.with_gradient) begin_head_gradients();
  units.prefetch(units.dense(c.num_layers));
  for (const auto& t : tracks_) normalise(*t);
  for (int k = 0; k < num_modules_; ++k) {
    const int layer = c.num_layers + k;
    const BlockParams& params = block_params_[static_cast<std::size_t>(layer)];
    units.use(units.dense(layer));
    for (const auto& t : tracks_)
      mtp_join_forward(join_of(env_, c, params, *t, k), t->slots[static_cast<std::size_t>(layer)].x0_TD);
    forward_block(layer, k + 1 < num_modules_ ? units.dense(layer + 1) : -1);
    for (const auto& t : tracks_) {
      await(*t);
      mtp_norm_forward(env_, c, params, t->mtp[static_cast<std::size_t>(k)]);
      module_loss(*t, k);
    }
    units.release(units.dense(layer));
  }
}

// The gradient of a module's input, in dx_TD, becomes that of the hidden state and of the embeddings.
void Pass::join_backward(Track& t, int k) {
  const BlockParams& params = block_params_[static_cast<std::size_t>(model_.config().num_layers + k)];
  mtp_join_backward(join_of(env_, model_.config(), params, t, k), t.dx_TD, t.dhidden(k));
}

// From dh of every module and dn, which hold what came through the head, to all of dn.
void Pass::backward_modules(bool last_of_step) {
  Units& units = model_.units();
  for (const auto& t : tracks_) zero(env_.stream, t->mtp_work.dembedded_TD);
  for (int k = num_modules_ - 1; k >= 0; --k) {
    const int layer = model_.config().num_layers + k;
    units.use(units.dense(layer));
    units.begin_gradients(units.dense(layer));
    for (const auto& t : tracks_)
      mtp_norm_backward(env_, block_params_[static_cast<std::size_t>(layer)], t->mtp[static_cast<std::size_t>(k)], t->dx_TD);
    backward_layer(layer, last_of_step);
    units.release(units.dense(layer));
  }
}

SecondTokens Pass::second_tokens() const {
  SecondTokens s;
  const Track& t = *tracks_.front();
  if (num_modules_ == 0) return s;
  const std::vector<std::int32_t> own = greedy();
  for (std::size_t i = 0; i < t.greedy_T.size(); ++i) {
    if (t.greedy_T[i] < 0) continue;
    ++s.num_judged;
    s.num_accepted += own[i + 1] == t.greedy_T[i];  // of the same sequence: the target counts
  }
  return s;
}

}  // namespace moe
