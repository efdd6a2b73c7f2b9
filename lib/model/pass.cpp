#include <cmath>

#include "lib/base/stopwatch.h"
#include "lib/model/model.h"

namespace moe {
namespace {

// Everything of a pass that lives in its arena.
struct PassMemory {
  std::vector<BlockSlot> slots;
  BlockStash stash;
  BlockWork work;
  RopeTables rope;
  Mat x_TD, n_TD, dn_TD, dx_TD, logits_TV;
  std::span<float> rstd_T, loss_T;
};

PassMemory take_memory(Arena& arena, const ModelConfig& c, DType dtype, const PassOptions& o) {
  const std::int64_t T = o.shape.num_tokens(), D = c.d_model, P = o.shape.seq_len, half = c.head_dim / 2;
  PassMemory m;
  m.slots = take_slots(arena, c, o.shape, dtype, o.recompute, o.training);
  m.work = take_work(arena, c, o.shape, dtype);
  m.rope = {arena.vector<float>(P * half), arena.vector<float>(P * half), arena.vector<std::int32_t>(T)};
  m.x_TD = arena.matrix(dtype, T, D);
  m.n_TD = arena.matrix(dtype, T, D);
  m.logits_TV = arena.matrix(DType::kF32, T, c.vocab_size);
  m.rstd_T = arena.vector<float>(T);
  m.loss_T = arena.vector<float>(T);
  if (!o.training) return m;
  m.stash = take_stash(arena, c, o.shape, dtype);
  m.dn_TD = arena.matrix(dtype, T, D);
  m.dx_TD = arena.matrix(dtype, T, D);
  return m;
}

// Angles in double: pos * theta^(-2i/S).
void fill_rope(const RopeTables& rope, const ModelConfig& c, const BatchShape& shape) {
  const auto half = static_cast<std::size_t>(c.head_dim / 2), P = static_cast<std::size_t>(shape.seq_len);
  for (std::size_t p = 0; p < P; ++p)
    for (std::size_t i = 0; i < half; ++i) {
      const double exponent = -2.0 * static_cast<double>(i) / c.head_dim;
      const double angle = static_cast<double>(p) * std::pow(static_cast<double>(c.rope_theta), exponent);
      rope.cos_PS2[p * half + i] = static_cast<float>(std::cos(angle));
      rope.sin_PS2[p * half + i] = static_cast<float>(std::sin(angle));
    }
  for (std::size_t t = 0; t < rope.pos_T.size(); ++t) rope.pos_T[t] = static_cast<std::int32_t>(t % P);
}

}  // namespace

std::size_t activation_bytes(const ModelConfig& config, DType dtype, const PassOptions& options) {
  Arena measuring(0);
  take_memory(measuring, config, dtype, options);
  return measuring.used_bytes();
}

Pass::Pass(Model& model, const PassOptions& options, Env env)
    : model_(model),
      options_(options),
      env_(env),
      arena_(activation_bytes(model.config(), model.dtype(), options)),
      tallies_(static_cast<std::size_t>(model.config().num_layers)) {
  PassMemory m = take_memory(arena_, model.config(), model.dtype(), options);
  slots_ = std::move(m.slots);
  stash_ = m.stash, work_ = m.work, rope_ = m.rope;
  x_TD_ = m.x_TD, n_TD_ = m.n_TD, dn_TD_ = m.dn_TD, dx_TD_ = m.dx_TD, logits_TV_ = m.logits_TV;
  rstd_T_ = m.rstd_T, loss_T_ = m.loss_T;
  fill_rope(rope_, model.config(), options.shape);
  for (int i = 0; i < model.config().num_layers; ++i) block_params_.push_back(block_params(model.params(), i));
  reset_tallies();
}

void Pass::reset_tallies() {
  for (int i : model_.moe_layers()) tallies_[static_cast<std::size_t>(i)].reset(model_.config().num_experts);
  segment_seconds_.fill(0);
}

BlockContext Pass::context(int layer) {
  const auto i = static_cast<std::size_t>(layer);
  const bool dense = model_.config().is_dense_layer(layer);
  return {.env = env_,
          .config = model_.config(),
          .balance = options_.balance,
          .params = block_params_[i],
          .is_dense = dense,
          .recompute = options_.recompute,
          .rope = rope_,
          .router_bias_E = model_.router_bias(layer),
          .work = work_,
          .stash = stash_,
          .tally = dense ? nullptr : &tallies_[i]};
}

// The next block's input, or the head's.
Mat Pass::block_output(int layer) const {
  const auto next = static_cast<std::size_t>(layer) + 1;
  return next < slots_.size() ? slots_[next].x0_TD : x_TD_;
}

void Pass::forward_block(const MicroBatch& batch, int layer) {
  const BlockContext block = context(layer);
  const SegmentArgs args{block, batch, slots_[static_cast<std::size_t>(layer)], block_output(layer), dx_TD_};
  Stopwatch watch;
  for (std::size_t s = 0; s < 4; ++s) {
    kBlockSegments[s]->forward(args);
    segment_seconds_[s] += watch.lap();
  }
}

void Pass::backward_block(const MicroBatch& batch, int layer) {
  if (options_.recompute == Recompute::kFull) {
    MicroBatch again = batch;
    again.tally = false;
    forward_block(again, layer);
  }
  const BlockContext block = context(layer);
  const SegmentArgs args{block, batch, slots_[static_cast<std::size_t>(layer)], block_output(layer), dx_TD_};
  Stopwatch watch;
  for (std::size_t s = 4; s-- > 0;) {
    kBlockSegments[s]->backward_input(args);
    segment_seconds_[s] += watch.lap();
  }
  for (std::size_t s = 4; s-- > 0;) {
    kBlockSegments[s]->backward_weight(args);
    segment_seconds_[s] += watch.lap();
  }
}

double Pass::head_forward(const MicroBatch& batch) {
  const auto& [stream, k] = env_;
  k.rmsnorm.forward(stream, x_TD_, model_.params().find("final_norm.weight").weight, 1, model_.config().norm_eps, n_TD_,
                    rstd_T_.data());
  k.gemm.forward(stream, n_TD_, model_.head().weight, logits_TV_, Store::kAssign);
  const float grad_scale = batch.with_gradient ? static_cast<float>(batch.loss_scale) : 0.0f;
  return k.cross_entropy.forward(stream, logits_TV_, batch.target_T, grad_scale, loss_T_.data());
}

// dx_TD (=) gradient of the head's input; the head's and the final norm's gradients +=.
void Pass::head_backward() {
  const auto& [stream, k] = env_;
  const Param& norm = model_.params().find("final_norm.weight");
  const Param& head = model_.head();
  k.gemm.backward_input(stream, logits_TV_, head.weight, dn_TD_, Store::kAssign);
  k.rmsnorm.backward_input(stream, dn_TD_, x_TD_, norm.weight, 1, rstd_T_.data(), dx_TD_, Store::kAssign);
  k.gemm.backward_weight(stream, logits_TV_, n_TD_, head.grad);
  k.rmsnorm.backward_weight(stream, dn_TD_, x_TD_, 1, rstd_T_.data(), norm.grad.f32());
}

double Pass::forward(const MicroBatch& batch) {
  const Mat embedding = model_.params().find("embedding.weight").weight;
  env_.kernels.embedding.forward(env_.stream, batch.id_T, embedding, slots_.front().x0_TD);
  for (int i = 0; i < model_.config().num_layers; ++i) forward_block(batch, i);
  return head_forward(batch);
}

void Pass::backward(const MicroBatch& batch) {
  head_backward();
  for (int i = model_.config().num_layers - 1; i >= 0; --i) backward_block(batch, i);
  env_.kernels.embedding.backward_weight(env_.stream, batch.id_T, dx_TD_, model_.params().find("embedding.weight").grad);
}

}  // namespace moe
