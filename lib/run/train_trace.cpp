#include "lib/run/train_trace.h"

#include "lib/base/error.h"
#include "lib/base/log.h"

namespace moe {
namespace {

// The decisions of one rank, layer by layer, as pieces of idx_LTK in the order in which that rank made them.
// use(layer, first token of the global batch, tokens).
template <class Use>
void for_each_piece(BatchCut cut, int rank, std::size_t num_layers, Use use) {
  cut.rank = rank;
  for (std::size_t l = 0; l < num_layers; ++l)
    for (int i = 0; i < cut.num_micro_batches(); ++i) {
      const BatchCut::Range range = cut.range(i);
      use(l, static_cast<std::size_t>(range.first) * static_cast<std::size_t>(cut.seq),
          static_cast<std::size_t>(range.count) * static_cast<std::size_t>(cut.seq));
    }
}

}  // namespace

std::vector<std::int16_t> gather_decisions(World& world, Trainer& trainer, const std::vector<int>& moe_layers, int top_k) {
  const BatchCut& cut = trainer.cut();
  const auto K = static_cast<std::size_t>(top_k);
  const auto layer_size = static_cast<std::size_t>(cut.batch) * static_cast<std::size_t>(cut.seq) * K;
  std::vector<std::int16_t> idx_LTK(world.rank() == 0 ? moe_layers.size() * layer_size : 0);
  std::vector<RecvPiece> receives;
  for (int r = 0; world.rank() == 0 && r < world.size(); ++r)
    for_each_piece(cut, r, moe_layers.size(), [&](std::size_t l, std::size_t first, std::size_t num_tokens) {
      receives.push_back({r, idx_LTK.data() + l * layer_size + first * K, num_tokens * K * sizeof(std::int16_t)});
    });
  std::vector<SendPiece> sends;
  std::vector<std::size_t> taken_L(moe_layers.size());
  for_each_piece(cut, world.rank(), moe_layers.size(), [&](std::size_t l, std::size_t, std::size_t num_tokens) {
    const std::vector<std::int16_t>& mine = trainer.tally(moe_layers[l]).idx_N;
    if (taken_L[l] + num_tokens * K > mine.size()) throw Error(Exit::kInternal, "router trace: decisions are missing");
    sends.push_back({0, mine.data() + taken_L[l], num_tokens * K * sizeof(std::int16_t)});
    taken_L[l] += num_tokens * K;
  });
  world.lane().call("router trace", [&] { world.comm().exchange("router trace", sends, receives); });
  return idx_LTK;
}

TrainTrace::TrainTrace(const TrainOptions& options, Model& model, Trainer& trainer)
    : o_(options), world_(model.mesh().world()), layers_(model.moe_layers()) {
  follow(trainer);
  if (world_.rank() != 0) return;
  const RoutingShape shape{layers_, options.model.num_experts, options.model.top_k};
  writer_ = std::make_unique<RouterTraceWriter>(options.router_trace, shape, std::int64_t{options.batch} * options.seq,
                                                options.router_trace_steps,
                                                options.common.force || options.resume_from.has_value(), options.seq);
}

void TrainTrace::follow(Trainer& trainer) {
  trainer_ = &trainer;
  for (const int layer : layers_) trainer.tally(layer).records = true;
}

// All steps of a file are of one size: those before --batch-ramp is done are not in it.
void TrainTrace::step_done(std::int64_t step) {
  if (trainer_->cut().batch != o_.batch) return;
  const std::vector<std::int16_t> idx_LTK = gather_decisions(world_, *trainer_, layers_, o_.model.top_k);
  world_.agree([&] {
    if (writer_) writer_->add_step(step, idx_LTK);
  });
}

void TrainTrace::finish(const nlohmann::json& provenance) {
  world_.agree([&] {
    if (!writer_) return;
    if (writer_->num_steps() == 0) return log_warning(o_.router_trace + ": not written, since this call made no step");
    const std::int64_t num_steps = writer_->num_steps();
    const std::string digest = writer_->finish(provenance);
    log_info("router trace of " + std::to_string(num_steps) + " steps: " + o_.router_trace + ", digest " + digest);
  });
}

}  // namespace moe
