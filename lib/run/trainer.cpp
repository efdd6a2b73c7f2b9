#include "lib/run/trainer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lib/base/stopwatch.h"

namespace moe {

Trainer::Trainer(const TrainOptions& options, Model& model, const TokenSource& data, Env env)
    : options_(options),
      model_(model),
      env_(env),
      order_(data, options.common.seed, options.seq, options.document_mask),
      pass_(model,
            {.shape = {options.micro_batch, options.seq},
             .recompute = options.recompute,
             .balance = options.balance,
             .training = true},
            env) {
  const auto tokens = static_cast<std::size_t>(options.batch) * static_cast<std::size_t>(options.seq);
  id_BT_.resize(tokens);
  target_BT_.resize(tokens);
  doc_start_BT_.resize(tokens);
}

void Trainer::load_batch() {
  const auto S = static_cast<std::size_t>(options_.seq);
  for (int b = 0; b < options_.batch; ++b) {
    const std::size_t at = static_cast<std::size_t>(b) * S;
    order_.fill(consumed_samples + b, std::span(id_BT_).subspan(at, S), std::span(target_BT_).subspan(at, S),
                std::span(doc_start_BT_).subspan(at, S));
  }
  consumed_samples += options_.batch;
  counted_tokens_ = std::count_if(target_BT_.begin(), target_BT_.end(), [](std::int32_t t) { return t >= 0; });
}

void Trainer::gradients(StepResult& result) {
  pass_.reset_tallies();
  const auto T = static_cast<std::size_t>(pass_.shape().num_tokens());
  double total = 0;
  for (std::size_t at = 0; at < id_BT_.size(); at += T) {
    const MicroBatch batch{.shape = pass_.shape(),
                           .id_T = std::span<const std::int32_t>(id_BT_).subspan(at, T),
                           .target_T = std::span<const std::int32_t>(target_BT_).subspan(at, T),
                           .doc_start_T = options_.document_mask ? doc_start_BT_.data() + at : nullptr,
                           .loss_scale = 1.0 / static_cast<double>(std::max<std::int64_t>(1, counted_tokens_)),
                           .share = static_cast<float>(T) / static_cast<float>(id_BT_.size())};
    Stopwatch watch;
    total += pass_.forward(batch);
    result.forward_seconds += watch.lap();
    pass_.backward(batch);
    result.backward_seconds += watch.lap();
  }
  result.loss = total / static_cast<double>(std::max<std::int64_t>(1, counted_tokens_));
}

void Trainer::update(StepResult& result) {
  const std::vector<AdamWTensor> tensors = model_.params().adamw_tensors(options_.weight_decay);
  double squares = 0;
  for (const AdamWTensor& t : tensors)
    squares += env_.kernels.adamw.sum_of_squares(env_.stream, {t.g, static_cast<std::size_t>(t.n)});
  result.grad_norm = std::sqrt(squares);
  result.updated = std::isfinite(squares) && std::isfinite(result.loss);
  if (!result.updated) {
    for (const AdamWTensor& t : tensors) std::memset(t.g, 0, sizeof(float) * static_cast<std::size_t>(t.n));
    return;
  }
  const bool clip = options_.grad_clip > 0 && result.grad_norm > options_.grad_clip;
  env_.kernels.adamw.step(env_.stream, tensors,
                          {.lr = static_cast<float>(result.lr),
                           .beta1 = options_.beta1,
                           .beta2 = options_.beta2,
                           .eps = options_.adam_eps,
                           .step = ++updates_done,
                           .grad_scale = clip ? static_cast<float>(options_.grad_clip / result.grad_norm) : 1.0f});
  if (!model_.config().router_bias) return;
  for (int layer : model_.moe_layers())
    update_router_bias(model_.router_bias(layer), pass_.tallies()[static_cast<std::size_t>(layer)].counts_E,
                       options_.balance.bias_update_speed);
}

void Trainer::collect(StepResult& result) {
  const auto& [pre, dispatch, experts, combine] = pass_.segment_seconds();
  result.experts_seconds = experts;
  result.exchange_seconds = dispatch + combine;
  for (int layer : model_.moe_layers()) {
    const RoutingTally& tally = pass_.tallies()[static_cast<std::size_t>(layer)];
    LayerResult r{
        .layer = layer, .load = load_metrics(tally.counts_E), .dropped = tally.num_dropped, .counts_E = tally.counts_E};
    r.entropy = tally.entropy_sum / static_cast<double>(std::max<std::int64_t>(1, tally.num_tokens));
    const std::vector<float>& bias = model_.router_bias(layer);
    if (!bias.empty()) {
      r.bias_min = *std::min_element(bias.begin(), bias.end());
      r.bias_max = *std::max_element(bias.begin(), bias.end());
    }
    result.aux += tally.aux, result.seq_aux += tally.seq_aux, result.global_aux += tally.global_aux, result.z += tally.z;
    result.layers.push_back(std::move(r));
  }
}

StepResult Trainer::step(double lr) {
  StepResult result{.step = ++steps_done, .lr = lr};
  Stopwatch whole, part;
  load_batch();
  result.data_seconds = part.lap();
  gradients(result);
  part.lap();
  update(result);
  result.optimizer_seconds = part.lap();
  collect(result);
  result.seconds = whole.lap();
  return result;
}

}  // namespace moe
