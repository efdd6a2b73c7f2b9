// The order of things in a micro-batch: blocks, tracks, what is gathered and reduced when. The lane works in the order of
// submission, and every rank submits in this order: gathers and reductions of units, exchanges of tracks. Not here: memory
// (pass_memory.cpp, track.cpp), the segments (block.cpp), the modules of multi-token prediction (pass_mtp.cpp).
#include <algorithm>
#include <utility>

#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/model/segment_names.h"
#include "lib/model/track.h"

namespace moe {
namespace {

enum : std::size_t { kPreAt, kDispatchAt, kExpertsAt, kCombineAt };  // in kBlockSegments

BlockContext block_context(Model& model, const PassOptions& o, const Env& env, const BlockParams& params,
                           const RopeTables& rope, Tallies& tallies, PlanRooms& plan_rooms, Track& track, int layer) {
  const bool dense = model.config().is_dense_layer(layer);
  return {.env = env,
          .config = model.config(),
          .balance = o.balance,
          .params = params,
          .layer = layer,
          .is_dense = dense,
          .recompute = o.recompute,
          .rope = {rope.cos_PR2, rope.sin_PR2, rope.pos_T.first(static_cast<std::size_t>(track.batch.shape.num_tokens()))},
          .router_bias_E = model.device_router_bias(layer),
          .work = track.work,
          .stash = track.stash,
          .tally = dense ? nullptr : &tallies.layers()[static_cast<std::size_t>(layer)],
          .tally_room = tallies.room(layer),
          .dispatcher = model.mesh().dispatcher(),
          .lane_stream = model.mesh().lane_env().stream,
          .plan_rooms = plan_rooms,
          .expert_map = dense ? 0 : model.mesh().map_of(layer),
          .expert2node = dense ? std::span<const std::int32_t>{} : model.mesh().expert2node(layer),
          .num_nodes = model.mesh().num_nodes(),
          .window = model.config().window_of(layer)};
}

// Sequences [first, first + n) of a micro-batch.
MicroBatch part_of(const MicroBatch& whole, int first, const BatchShape& shape) {
  const auto S = static_cast<std::size_t>(shape.seq_len), at = static_cast<std::size_t>(first) * S;
  const auto T = static_cast<std::size_t>(shape.num_tokens());
  MicroBatch part = whole;
  part.shape = shape;
  part.id_T = whole.id_T.subspan(at, T);
  part.target_T = whole.target_T.subspan(at, T);
  if (whole.doc_start_T) part.doc_start_T = whole.doc_start_T + at;
  part.share = whole.shape.num_seqs == 0
                   ? 0
                   : whole.share * static_cast<float>(shape.num_seqs) / static_cast<float>(whole.shape.num_seqs);
  return part;
}

}  // namespace

void Pass::reset_tallies() {
  tallies_->reset();
  segment_seconds_.fill(0);
}

Mat Pass::logits() const { return tracks_.front()->logits_TV; }

std::span<const float> Pass::losses() {
  const Track& t = *tracks_.front();
  const auto losses = t.loss_T.first(static_cast<std::size_t>(t.batch.shape.num_tokens()));
  if (env_.stream.is_cpu()) return losses;
  losses_.resize(losses.size());
  env_.stream.copy(losses_.data(), losses.data(), losses.size_bytes());
  env_.stream.synchronize();
  return losses_;
}

std::vector<float> Pass::logits_of(std::int64_t row) const {
  const Mat all = logits();
  std::vector<float> logits(static_cast<std::size_t>(all.cols));
  env_.stream.copy(logits.data(), all.row(row), logits.size() * sizeof(float));
  env_.stream.synchronize();
  return logits;
}

CMat Pass::logits_on_host() {
  const Mat all = logits();
  if (env_.stream.is_cpu()) return all;
  logits_.resize(static_cast<std::size_t>(all.rows * all.cols));
  env_.stream.copy(logits_.data(), all.data, logits_.size() * sizeof(float));
  env_.stream.synchronize();
  return {logits_.data(), DType::kF32, all.rows, all.cols, all.cols};
}

// One part of a segment, now, by this thread.
void Pass::run(Track& track, int layer, std::size_t segment, Part part) {
  const auto i = static_cast<std::size_t>(layer);
  const BlockContext block =
      block_context(model_, options_, env_, block_params_[i], rope_, *tallies_, plan_rooms_, track, layer);
  const TraceSpan span(world().trace(), TraceRow::kCompute, segment_label(segment, part, layer));
  const Stopwatch watch;
  part({block, track.batch, track.slots[i], track.block_output(layer), track.dx_TD});
  segment_seconds_[segment] += watch.seconds();
}

// A communication segment: on the lane, unless all experts are here.
void Pass::communicate(Track& track, int layer, std::size_t segment, Part part) {
  const auto i = static_cast<std::size_t>(layer);
  if (model_.config().is_dense_layer(layer)) return;
  if (!model_.mesh().dispatcher()) return run(track, layer, segment, part);
  const auto exchange = [this, &track, i, layer, part] {
    const BlockContext block =
        block_context(model_, options_, env_, block_params_[i], rope_, *tallies_, plan_rooms_, track, layer);
    part({block, track.batch, track.slots[i], track.block_output(layer), track.dx_TD});
  };
  track.on_its_way =
      model_.mesh().lane().submit(kBlockSegments[segment]->name, exchange, segment_label(segment, part, layer));
  if (!model_.mesh().options().overlap) await(track);
}

void Pass::await(Track& track) {
  if (track.on_its_way > 0) model_.mesh().lane().wait(std::exchange(track.on_its_way, 0));
}

void Pass::forward_pre(int layer) {
  Units& units = model_.units();
  units.use(units.dense(layer));
  units.prefetch(units.experts(layer));
  for (const auto& track : tracks_) {
    await(*track);  // its combine of the block before
    run(*track, layer, kPreAt, kPre.forward);
    communicate(*track, layer, kDispatchAt, kDispatch.forward);
  }
}

void Pass::forward_experts(int layer) {
  Units& units = model_.units();
  units.use(units.experts(layer));
  for (const auto& track : tracks_) {
    run(*track, layer, kExpertsAt, kExperts.forward_ahead);
    await(*track);
    most_rows_ = std::max(most_rows_, track->slots[static_cast<std::size_t>(layer)].plan.num_rows);
    run(*track, layer, kExpertsAt, kExperts.forward);
    communicate(*track, layer, kCombineAt, kCombine.forward);
  }
  units.release(units.experts(layer));
  units.release(units.dense(layer));
}

void Pass::use_head() {
  Units& units = model_.units();
  units.use(units.head());
  if (model_.config().tied_embeddings) units.use(units.embedding());
}

void Pass::release_head() {
  Units& units = model_.units();
  units.release(units.head());
  if (model_.config().tied_embeddings) units.release(units.embedding());
}

void Pass::begin_head_gradients() {
  Units& units = model_.units();
  units.begin_gradients(units.head());
  if (model_.config().tied_embeddings) units.begin_gradients(units.embedding());
}

void Pass::normalise(Track& t) {
  await(t);
  env_.kernels.rmsnorm.forward(env_.stream, t.x_TD, model_.params().find("final_norm.weight").weight, 1,
                               model_.config().norm_eps, t.n_TD, t.rstd_T.data());
}

// Behind the modules, which leave the logits' memory to the model.
void Pass::ends_forward() {
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "head forward"});
  if (Track& t = *tracks_.front(); t.batch.cache) return normalise(t), head_of_runs(t.n_TD);
  const auto& [stream, k] = env_;
  for (const auto& t : tracks_) {
    if (num_modules_ == 0) normalise(*t);
    k.gemm.forward(stream, t->n_TD, model_.head().weight, t->logits_TV, Store::kAssign);
    const float grad_scale = t->batch.with_gradient ? static_cast<float>(t->batch.loss_scale) : 0.0f;
    k.cross_entropy.forward(stream, t->logits_TV, t->batch.target_T, grad_scale, t->loss_T.data(), tallies_->loss(-1));
  }
}

// The track's logits are their gradient: dn (=), the head's gradient +=.
void Pass::head_backward(Track& t, Mat n_TD, Mat dn_TD) {
  const Param& head = model_.head();
  env_.kernels.gemm.backward_input(env_.stream, t.logits_TV, head.weight, dn_TD, Store::kAssign);
  env_.kernels.gemm.backward_weight(env_.stream, t.logits_TV, n_TD, head.grad);
}

// dx_TD (=) gradient of the last block's output; gradients of head, final norm and modules +=.
void Pass::ends_backward(bool last_of_step) {
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "head backward"});
  const auto& [stream, k] = env_;
  Units& units = model_.units();
  begin_head_gradients();
  for (const auto& t : tracks_) head_backward(*t, t->n_TD, t->dn_TD);
  if (num_modules_ > 0) backward_modules(last_of_step);
  const Param& norm = model_.params().find("final_norm.weight");
  for (const auto& t : tracks_) {
    k.rmsnorm.backward_input(stream, t->dn_TD, t->x_TD, norm.weight, 1, t->rstd_T.data(), t->dx_TD, Store::kAssign);
    k.rmsnorm.backward_weight(stream, t->dn_TD, t->x_TD, 1, t->rstd_T.data(), norm.grad.f32());
  }
  units.reduce_gradients(units.head(), last_of_step);
  if (model_.config().tied_embeddings) units.reduce_gradients(units.embedding(), false);
}

void Pass::embedding_backward(bool last_of_step) {
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "embedding backward"});
  Units& units = model_.units();
  units.begin_gradients(units.embedding());
  const Mat grad = model_.params().find("embedding.weight").grad;
  for (const auto& t : tracks_) {
    env_.kernels.embedding.backward_weight(env_.stream, t->batch.id_T, t->dx_TD, grad);
    if (num_modules_ > 0) env_.kernels.embedding.backward_weight(env_.stream, t->batch.id_T, t->mtp_work.dembedded_TD, grad);
  }
  units.reduce_gradients(units.embedding(), last_of_step);
}

void Pass::forward_block(int layer, int next_unit) {
  forward_pre(layer);
  model_.units().prefetch(next_unit);
  forward_experts(layer);
}

void Pass::forward(const MicroBatch& batch) {
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "forward"});
  Units& units = model_.units();
  const bool balance = batch.tally && (options_.balance.aux > 0 || options_.balance.global_aux > 0);
  if (balance) tallies_->begin_micro_batch();
  int first = 0;
  for (std::size_t i = 0; i < tracks_.size(); ++i) {
    const BatchShape shape = track_shape(batch.shape, num_tracks(), static_cast<int>(i));
    put_into(*tracks_[i], part_of(batch, first, shape), env_.stream);
    first += shape.num_seqs;
  }
  units.use(units.embedding());
  units.prefetch(units.dense(0));
  for (const auto& t : tracks_)
    env_.kernels.embedding.forward(env_.stream, t->batch.id_T, model_.params().find("embedding.weight").weight,
                                   t->slots.front().x0_TD);
  units.release(units.embedding());
  const int last = model_.config().num_layers - 1;
  for (int i = 0; i <= last; ++i) forward_block(i, i < last ? units.dense(i + 1) : units.head());
  use_head();
  if (num_modules_ > 0 && !batch.cache) forward_modules(batch);
  if (balance) tallies_->finish_micro_batch(model_.mesh().lane_env().stream);
  ends_forward();
  if (!batch.with_gradient) release_head();
}

// Gradients of the block's output in every dx_TD become those of its input. Exchanges of one track run under the other's
// experts, and under the weight gradients, which need nobody.
void Pass::backward_layer(int layer, bool last_of_step) {
  Units& units = model_.units();
  units.use(units.dense(layer));
  units.use(units.experts(layer));
  if (options_.recompute == Recompute::kFull)
    for (const auto& t : tracks_) {
      const bool tally = std::exchange(t->batch.tally, false);
      run(*t, layer, kPreAt, kPre.forward);
      communicate(*t, layer, kDispatchAt, kDispatch.forward);
      run(*t, layer, kExpertsAt, kExperts.forward_ahead);
      await(*t);
      run(*t, layer, kExpertsAt, kExperts.forward);
      t->batch.tally = tally;
    }
  for (const auto& t : tracks_)
    if (!std::exchange(t->is_sent, false)) communicate(*t, layer, kCombineAt, kCombine.backward_input);
  units.begin_gradients(units.experts(layer));
  units.begin_gradients(units.dense(layer));
  if (layer > 0) units.prefetch(units.dense(layer - 1));
  for (const auto& t : tracks_) {
    run(*t, layer, kExpertsAt, kExperts.backward_input_ahead);
    await(*t);
    run(*t, layer, kExpertsAt, kExperts.backward_input);
    communicate(*t, layer, kDispatchAt, kDispatch.backward_input);
    run(*t, layer, kExpertsAt, kExperts.backward_weight);
  }
  units.release(units.experts(layer));
  units.reduce_gradients(units.experts(layer), last_of_step);
  if (layer > 0) units.prefetch(units.experts(layer - 1));
  // Under kFull the block below has no rows yet: they are computed again first. A module's block has none below.
  const int module = module_of(layer);
  const bool go_on = layer > 0 && module < 0 && options_.recompute != Recompute::kFull;
  for (const auto& t : tracks_) {
    await(*t);
    run(*t, layer, kPreAt, kPre.backward_input);
    if (go_on) communicate(*t, layer - 1, kCombineAt, kCombine.backward_input);
    t->is_sent = go_on;
    run(*t, layer, kPreAt, kPre.backward_weight);
    if (module >= 0) join_backward(*t, module);
  }
  units.release(units.dense(layer));
  units.reduce_gradients(units.dense(layer), last_of_step);
}

void Pass::backward(const MicroBatch& batch) {
  const TraceSpan span(world().trace(), TraceRow::kCompute, {.name = "backward"});
  Units& units = model_.units();
  const int last = model_.config().num_layers - 1;
  units.prefetch(units.dense(last + num_modules_));
  units.prefetch(units.experts(last + num_modules_));
  tallies_->wait_for_others();
  ends_backward(batch.last_of_step);
  release_head();
  for (int i = last; i >= 0; --i) backward_layer(i, batch.last_of_step);
  embedding_backward(batch.last_of_step);
}

}  // namespace moe
