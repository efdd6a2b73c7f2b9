#include "lib/run/trainer.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/run/schedule.h"

namespace moe {

void gradient_squares(Model& model, Env env, double* squares) {
  const Cut part{model.mesh().place().replicate, model.mesh().options().shape.replicate};
  std::vector<std::span<const float>> gradients;
  const auto add = [&](const float* gradient, std::int64_t n) {
    const std::int64_t begin = part.begin(n), end = part.end(n);
    gradients.emplace_back(gradient + begin, static_cast<std::size_t>(end - begin));
  };
  const bool has_copies = model.params().layout().has_copies();
  for (const Param& p : model.params().all()) {
    if (!has_copies || !p.spec.is_expert) {
      add(p.grad_shard, p.shard_size());
      continue;
    }
    for (const ShardRun& run : model.params().runs(p))
      if (!run.is_copy) add(p.grad_shard + run.at, run.count);
  }
  env.kernels.adamw.sum_of_squares(env.stream, gradients, squares);
}
namespace {

enum Phase : std::size_t { kForward, kBackward, kOptimizer, kEma, kNumPhases };

BatchCut cut_of(const TrainOptions& o, const MeshContext& mesh, int batch) {
  return {batch, o.micro_batch, o.seq, mesh.num_ranks(), mesh.world().rank()};
}

PassOptions pass_options(const TrainOptions& o, const MeshContext& mesh) {
  return {.shape = {cut_of(o, mesh, o.batch).micro_batch_per_rank(), o.seq},
          .recompute = o.recompute,
          .balance = o.balance,
          .training = true};
}

}  // namespace

Trainer::Trainer(const TrainOptions& options, Model& model, const TokenSource& data, Env env)
    : options_(options),
      model_(model),
      env_(env),
      order_(data, options.common.seed, options.seq, options.document_mask),
      pass_(model, pass_options(options, model.mesh()), env),
      batch_(cut_of(options, model.mesh(), options.batch), options.document_mask, env.stream.device()),
      squares_(env.stream),
      clock_(env.stream, kNumPhases) {
  if (model.params().state().muon)
    muon_ = std::make_unique<Muon>(model.params(), model.mesh().unit_comms(), model.mesh().lane(), env.stream.device());
  const auto E = static_cast<std::size_t>(model.config().num_experts);
  coactivation_LEE_.resize(static_cast<std::size_t>(model.config().num_moe_layers()) * E * E);
}

void Trainer::go_on_from(const Trainer& before) {
  steps_done = before.steps_done;
  updates_done = before.updates_done;
  consumed_samples = before.consumed_samples;
}

// A batch that is smaller than the largest has micro-batches that are no larger, so it fits into the pass.
void Trainer::load_batch(StepResult& result) {
  const TraceSpan span(model_.mesh().world().trace(), TraceRow::kCompute, {.name = "data"});
  result.batch = batch_after(options_, result.step - 1);
  if (batch_.cut().batch != result.batch)
    batch_ = GlobalBatch(cut_of(options_, model_.mesh(), result.batch), options_.document_mask, env_.stream.device());
  batch_.load(order_, consumed_samples);
  consumed_samples += result.batch;
  result.tokens = consumed_samples * options_.seq;
  std::vector<std::int64_t> counted = {batch_.num_counted()};
  for (int k = 0; k < pass_.num_modules(); ++k) counted.push_back(batch_.num_mtp_counted(k));
  World& world = model_.mesh().world();
  if (!world.alone())
    world.lane().call_on_host("token count", [&] { all_reduce_sum(world.comm(), "token count", std::span(counted)); });
  counted_tokens_ = counted[0];
  mtp_counted_.assign(counted.begin() + 1, counted.end());
  mtp_scale_.clear();
  for (const std::int64_t n : mtp_counted_)
    mtp_scale_.push_back(result.mtp_weight / pass_.num_modules() / static_cast<double>(std::max<std::int64_t>(1, n)));
}

void Trainer::gradients() {
  pass_.reset_tallies();
  for (int i = 0; i < batch_.cut().num_micro_batches(); ++i) {
    MicroBatch batch = batch_.micro_batch(i, 1.0 / static_cast<double>(std::max<std::int64_t>(1, counted_tokens_)));
    batch.mtp_scale_D = mtp_scale_;
    clock_.start();
    pass_.forward(batch);
    clock_.lap(kForward);
    pass_.backward(batch);
    clock_.lap(kBackward);
  }
  model_.units().finish_gradients();
}

// The one place of a step where the host waits for a GPU that computes alone. One sum over all ranks of what is counted in
// double, and one of what is counted in integers.
void Trainer::agree(StepResult& result, const StepNews& news) {
  World& world = model_.mesh().world();
  const TraceSpan span(world.trace(), TraceRow::kCompute, {.name = "totals"});
  squares_.zero();
  gradient_squares(model_, env_, squares_.data());
  squares_.fetch();
  clock_.start();  // what is left before the wait are small copies
  pass_.pull_tallies();
  clock_.waited();
  const std::vector<double>& losses = pass_.losses_pulled();
  std::vector<double> sums = {losses[0], squares_.fetched(), news.stop() ? 1.0 : 0.0, world.rank() == 0 ? news.clock() : 0.0,
                              news.busy() ? 1.0 : 0.0};
  std::vector<std::int64_t> counts;
  for (int layer : model_.moe_layers()) {
    RoutingTally& t = pass_.tallies()[static_cast<std::size_t>(layer)];
    sums.insert(sums.end(), {t.aux, t.seq_aux, t.global_aux, t.z, t.entropy_sum});
    counts.insert(counts.end(), t.counts_E.begin(), t.counts_E.end());
    counts.insert(counts.end(), {t.num_tokens, t.num_dropped});
  }
  sums.insert(sums.end(), losses.begin() + 1, losses.end());
  if (!world.alone())
    world.lane().call_on_host("step totals", [&] {
      all_reduce_sum(world.comm(), "step totals", std::span(sums));
      if (!counts.empty()) all_reduce_sum(world.comm(), "step totals", std::span(counts));
    });
  result.loss = sums[0] / static_cast<double>(std::max<std::int64_t>(1, counted_tokens_));
  result.grad_norm = std::sqrt(sums[1]);
  result.updated = std::isfinite(sums[1]) && std::isfinite(result.loss);
  result.stop = sums[2] > 0;
  result.run_seconds = sums[3];
  result.num_busy = static_cast<int>(sums[4]);
  const double* sum = sums.data() + 5;
  const std::int64_t* count = counts.data();
  for (int layer : model_.moe_layers()) {
    RoutingTally& t = pass_.tallies()[static_cast<std::size_t>(layer)];
    t.aux = *sum++, t.seq_aux = *sum++, t.global_aux = *sum++, t.z = *sum++, t.entropy_sum = *sum++;
    for (std::int64_t& c : t.counts_E) c = *count++;
    t.num_tokens = *count++, t.num_dropped = *count++;
  }
  for (const std::int64_t n : mtp_counted_)
    result.mtp_loss.push_back(*sum++ / static_cast<double>(std::max<std::int64_t>(1, n)));
}

void Trainer::update_parameters(const StepResult& result) {
  const bool clip = options_.grad_clip > 0 && result.grad_norm > options_.grad_clip;
  const float lr = static_cast<float>(result.lr);
  const float grad_scale = clip ? static_cast<float>(options_.grad_clip / result.grad_norm) : 1.0f;
  env_.kernels.adamw.step(env_.stream, model_.params().adamw_tensors(options_.weight_decay),
                          {.lr = lr,
                           .beta1 = options_.beta1,
                           .beta2 = options_.beta2,
                           .eps = options_.adam_eps,
                           .step = ++updates_done,
                           .grad_scale = grad_scale});
  if (muon_) muon_->step(env_.stream, env_.kernels, {.lr = lr, .decay = options_.weight_decay, .grad_scale = grad_scale});
}

// On a GPU it goes on beside the next step, and no time of this one is its own.
void Trainer::update_average() {
  if (!model_.average()) return;
  clock_.lap(kOptimizer);
  model_.average()->update(env_, options_.ema);
  if (env_.stream.is_cpu()) clock_.lap(kEma);
}

void Trainer::update(StepResult& result) {
  const TraceSpan span(model_.mesh().world().trace(), TraceRow::kCompute, {.name = "update"});
  if (!result.updated) return model_.units().clear_gradients();
  if (model_.average()) model_.average()->join(env_.stream);  // it reads the masters
  update_parameters(result);
  update_average();
  model_.units().weights_changed();
  if (model_.params().layout().zero == 1) model_.units().clear_gradients();  // the optimizer cleared the shards
  if (!model_.config().router_bias) return;
  for (int layer : model_.moe_layers())
    update_router_bias(model_.router_bias(layer), pass_.tallies()[static_cast<std::size_t>(layer)].counts_E,
                       static_cast<float>(result.bias_update_speed));
  model_.router_bias_changed();
}

namespace {

double memory_in_use(const Device& device) {
  std::size_t used = 0, total = 0;
  device.memory(&used, &total);
  return static_cast<double>(used);
}

}  // namespace

// A GPU is at the update when the host comes here: of its phases those are known that ended before the wait, the update of
// the step before among them. What of that ran before this step, or while its batch was loaded, is not counted.
void Trainer::collect_phases(StepResult& result, std::int64_t loaded_ns) {
  const std::vector<double> seconds = clock_.take(loaded_ns);
  result.forward_seconds = seconds[kForward];
  result.backward_seconds = seconds[kBackward];
  result.ema_seconds = seconds[kEma];
  result.optimizer_seconds = seconds[kOptimizer] + seconds[kEma];
}

void Trainer::collect(StepResult& result) {
  const auto& [pre, dispatch, experts, combine] = pass_.segment_seconds();
  result.lane = model_.mesh().lane().take_times();
  const bool on_cpu = env_.stream.is_cpu();
  if (on_cpu) result.experts_seconds = experts;
  if (on_cpu || model_.mesh().dispatcher())
    result.exchange_seconds = (on_cpu ? dispatch + combine : 0) + result.lane["dispatch"].busy + result.lane["combine"].busy;
  for (const auto& [name, time] : result.lane) result.exposed_seconds += time.exposed;
  if (!on_cpu) result.device_bytes = memory_in_use(env_.stream.device());
  auto pairs = coactivation_LEE_.begin();
  for (int layer : model_.moe_layers()) {
    const RoutingTally& tally = pass_.tallies()[static_cast<std::size_t>(layer)];
    pairs = std::transform(tally.coactivation_EE.begin(), tally.coactivation_EE.end(), pairs, pairs, std::plus<>());
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

StepResult Trainer::step(double lr, const StepNews& news, double progress) {
  StepResult result{.step = ++steps_done, .lr = lr};
  const RunPoint now = run_point(options_, result.step, progress);
  result.bias_update_speed = options_.balance.bias_update_speed.at(now);
  result.mtp_weight = options_.mtp_weight.at(now);
  World& world = model_.mesh().world();
  world.watchdog().set_step(result.step);
  world.trace().set_step(result.step);
  const TraceSpan span(world.trace(), TraceRow::kCompute, {.name = "step"});
  world.lane().take_times();  // of saves and evaluations since the last step
  Stopwatch whole;
  load_batch(result);
  result.data_seconds = whole.seconds();
  const std::int64_t loaded_ns = host_clock_ns();
  gradients();
  agree(result, news);
  clock_.start();
  update(result);
  clock_.lap(kOptimizer);
  collect_phases(result, loaded_ns);
  collect(result);
  result.seconds = whole.lap();
  return result;
}

std::vector<std::int64_t> Trainer::take_coactivation() {
  std::vector<std::int64_t> sum = coactivation_LEE_;
  std::fill(coactivation_LEE_.begin(), coactivation_LEE_.end(), 0);
  World& world = model_.mesh().world();
  if (!world.alone() && !sum.empty())
    world.lane().call("co-activation", [&] { all_reduce_sum(world.comm(), "co-activation", std::span(sum)); });
  return sum;
}

}  // namespace moe
