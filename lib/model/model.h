// A model (parameters and router biases) and a Pass (the memory of micro-batches of one shape, forward and backward).
// One model may have several passes: training, evaluation, sampling. One process.
// Not here: files, the optimizer's schedule, what a step is (lib/run).
#pragma once

#include <array>
#include <vector>

#include "lib/model/block.h"

namespace moe {

class Model {
 public:
  // Takes the memory of what `layout` gives this rank (all of it for one process); values are zero until initialize() or a
  // checkpoint fills them.
  Model(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout);
  Model(const ModelConfig& config, DType dtype, bool training)
      : Model(config, dtype, training, ParamLayout::whole(config.num_experts)) {}

  // Initial values: a pure function of (seed, name of the parameter, element index).
  void initialize(std::uint64_t seed) { params_.initialize(seed); }

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  bool training() const { return training_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }
  // [E], empty without router_bias and in dense layers.
  std::vector<float>& router_bias(int layer) { return router_bias_[static_cast<std::size_t>(layer)]; }
  const Param& head() const;
  std::vector<int> moe_layers() const;

 private:
  ModelConfig config_;
  DType dtype_;
  bool training_;
  Arena arena_;
  ParamStore params_;
  std::vector<std::vector<float>> router_bias_;
};

struct PassOptions {
  BatchShape shape;
  Recompute recompute = Recompute::kNone;
  BalanceOptions balance;
  bool training = true;
};

class Pass {
 public:
  Pass(Model& model, const PassOptions& options, Env env);

  const BatchShape& shape() const { return options_.shape; }
  // Sum of the cross-entropy over counted tokens, in nats; the batch has this pass's shape. With batch.with_gradient the
  // head keeps the gradient of loss_scale * sum; backward() then adds all parameter gradients (+=), those of the
  // balance losses included.
  double forward(const MicroBatch& batch);
  void backward(const MicroBatch& batch);
  // After a forward without gradient: logits [T, V] (f32). After any forward: each token's loss.
  Mat logits() const { return logits_TV_; }
  std::span<const float> token_losses() const { return loss_T_; }
  std::vector<RoutingTally>& tallies() { return tallies_; }  // one per layer; dense layers count nothing
  void reset_tallies();
  // Seconds in the segments of kBlockSegments, all blocks, forward and backward, since reset_tallies().
  const std::array<double, 4>& segment_seconds() const { return segment_seconds_; }

 private:
  BlockContext context(int layer);
  Mat block_output(int layer) const;
  void forward_block(const MicroBatch& batch, int layer);
  void backward_block(const MicroBatch& batch, int layer);
  double head_forward(const MicroBatch& batch);
  void head_backward();

  Model& model_;
  PassOptions options_;
  Env env_;
  Arena arena_;
  std::vector<BlockParams> block_params_;
  std::vector<RoutingTally> tallies_;
  std::array<double, 4> segment_seconds_{};
  std::vector<BlockSlot> slots_;
  BlockStash stash_;
  BlockWork work_;
  RopeTables rope_;
  Mat x_TD_, n_TD_, dn_TD_, dx_TD_, logits_TV_;  // head: its input, the normed input, their gradients
  std::span<float> rstd_T_, loss_T_;
};

// Bytes that a pass takes.
std::size_t activation_bytes(const ModelConfig& config, DType dtype, const PassOptions& options);

// Bytes by purpose: what --dry-run prints is counted by the code that allocates.
struct ModelMemory {
  std::size_t weights = 0, masters = 0, grads = 0, moments = 0, activations = 0;
  std::size_t total() const { return weights + masters + grads + moments + activations; }
};
ModelMemory predict_memory(const ModelConfig& config, DType dtype, const PassOptions& pass);

// b_i += speed * sign(mean - counts_i), sign(0) = 0 (arXiv 2408.15664, algorithm 1), after a global batch.
void update_router_bias(std::span<float> bias_E, std::span<const std::int64_t> counts_E, float speed);

}  // namespace moe
