// A model (parameters and router biases, as far as this rank holds them) and a Pass (the memory of micro-batches of one
// shape, forward and backward). One model may have several passes: training, evaluation, sampling. Every rank of a mesh
// makes the same calls. Not here: files, the optimizer's schedule, what a step is (lib/run).
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "lib/model/block.h"
#include "lib/model/mesh_context.h"
#include "lib/tensor/moving_average.h"

namespace moe {

class Model {
 public:
  // Takes the memory of this rank's part on the mesh's device; values are zero until initialize() or a checkpoint fills
  // them.
  Model(const ModelConfig& config, DType dtype, bool training, MeshContext& mesh, const TrainingState& state = {});
  // All of it in one process.
  Model(const ModelConfig& config, DType dtype, bool training, const Kernels& kernels = cpu_kernels(),
        const Device& device = cpu_device());
  // A part alone in memory of the host, for files: it has no mesh() and no units(), so no pass can run it.
  Model(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout, const TrainingState& state = {});

  // Initial values: a pure function of (seed, name of the parameter, element index).
  void initialize(std::uint64_t seed);

  const ModelConfig& config() const { return config_; }
  DType dtype() const { return dtype_; }
  bool training() const { return training_; }
  MeshContext& mesh() { return *mesh_; }
  ParamStore& params() { return *params_; }
  const ParamStore& params() const { return *params_; }
  Units& units() { return *units_; }
  MovingAverage* average() { return average_.get(); }  // nullptr: none is kept
  // For the thread that computes, to copy from and to the device, or to touch the average, while the lane does nothing:
  // everything that it has put into its stream is done, and the average is made.
  Stream& settled_stream();
  // [E], empty without router_bias and in dense layers. The same on every rank.
  std::vector<float>& router_bias(int layer) { return router_bias_[static_cast<std::size_t>(layer)]; }
  // The same where kernels read it, after router_bias_changed().
  std::span<const float> device_router_bias(int layer) const {
    const auto i = static_cast<std::size_t>(layer);
    return on_host() ? std::span<const float>(router_bias_[i]) : device_router_bias_[i];
  }
  void router_bias_changed();
  bool on_host() const { return arena_->device().kind == DeviceKind::kCpu; }
  const Param& head() const;
  std::vector<int> moe_layers() const;

 private:
  Model(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout, const TrainingState& state,
        const Device& device);
  void take_memory(const ParamLayout& layout, const TrainingState& state, const Device& device);

  ModelConfig config_;
  DType dtype_;
  bool training_;
  std::unique_ptr<World> own_world_;  // of one process
  std::unique_ptr<MeshContext> own_mesh_;
  MeshContext* mesh_ = nullptr;
  std::unique_ptr<Arena> arena_, ema_arena_;
  std::unique_ptr<ParamStore> params_;
  std::unique_ptr<MovingAverage> average_;
  std::unique_ptr<Units> units_;
  std::vector<std::vector<float>> router_bias_;
  std::vector<std::span<float>> device_router_bias_;  // not on the host
};

struct PassOptions {
  BatchShape shape;
  Recompute recompute = Recompute::kNone;
  BalanceOptions balance;
  bool training = true;
  // Of multi-token prediction, that run at most; -1: all of the model in training, else none. With a cache they run in
  // extend_module() alone.
  int num_modules = -1;
  // Generation (Pass::extend): tokens go behind those in this cache. The shape is then {most tokens of a call, 1}.
  KvCache* cache = nullptr;
  int max_logits = 0;  // rows of logits of a call at most
};

struct Track;

// Positions at which the first module's greedy token was the model's own, one position on.
struct SecondTokens {
  std::int64_t num_judged = 0, num_accepted = 0;
  double acceptance() const { return static_cast<double>(num_accepted) / static_cast<double>(num_judged); }
};

// A micro-batch goes through in one track, or in two halves in turn: while one computes, rows of the other are on their way
// (DeepSeek-V3 report 3.2.1, without the pipeline). Halving needs other ranks' experts, overlap and two sequences.
class Pass {
 public:
  Pass(Model& model, const PassOptions& options, Env env);
  ~Pass();
  Pass(const Pass&) = delete;
  Pass& operator=(const Pass&) = delete;

  const BatchShape& shape() const { return options_.shape; }
  int num_tracks() const { return static_cast<int>(tracks_.size()); }
  std::int64_t most_rows() const { return most_rows_; }  // that the experts here got in one track and layer, ever
  // Adds up the cross-entropy over counted tokens here (take_losses()); the batch has this pass's shape or fewer sequences,
  // 0 too. With batch.with_gradient the head keeps the gradient of loss_scale * that sum; backward() then adds all parameter
  // gradients (+=), those of the balance losses included. Where all experts are here, and no capacity drops rows, the host
  // waits for nothing of a GPU.
  void forward(const MicroBatch& batch);
  void backward(const MicroBatch& batch);
  // Generation, of a pass with a cache: each run's tokens (id_T: one run after the other) see those of its sequence before
  // them and are in the cache afterwards. logits(): a row for each of the last num_logits tokens of each run, in order;
  // hidden(): [T, D] of all new tokens behind the final norm. Every rank calls, one without runs too.
  void extend(std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, bool tally = false);
  Mat hidden() const;
  // The same of module k over its own part of the cache (lengths of module k + 1 there), whose position i is made of token
  // i+k+1, in id_T, and of h^k_i, a row of hidden_TD, dense memory of the host in the model's dtype. logits(): of the
  // module.
  void extend_module(int k, std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, CMat hidden_TD);
  Mat module_hidden(int k) const;  // h^(k+1) of the new positions
  // After a forward without gradient: logits [T, V] (f32), of the first track.
  Mat logits() const;                                    // memory of the device ...
  std::vector<float> logits_of(std::int64_t row) const;  // ... a row of it ...
  CMat logits_on_host();                                 // ... and all of it until the next call
  std::vector<std::int32_t> greedy() const;              // [T], the token of the largest logit of each row
  // [T] of the same, for the host: each token's cross-entropy, 0 where it is not counted.
  std::span<const float> losses();
  int num_modules() const { return num_modules_; }
  World& world() const { return model_.mesh().world(); }
  // Sums of the cross-entropy over counted tokens here, in nats: the model's, then over the counted targets of each module
  // of multi-token prediction. Of the forwards since the last call, which this one waits for, ...
  std::vector<double> take_losses() { return tallies_->take_losses(); }
  // ... or of those since reset_tallies(), after pull_tallies().
  const std::vector<double>& losses_pulled() const { return tallies_->losses(); }
  // After a forward without gradient and with a module: over the module's counted targets.
  SecondTokens second_tokens() const;
  // One per block; dense ones count nothing. What kernels have counted is in them after pull_tallies().
  std::vector<RoutingTally>& tallies() { return tallies_->layers(); }
  void pull_tallies() { tallies_->pull(); }  // waits
  void reset_tallies();
  // Seconds that this rank computed in the segments of kBlockSegments, all blocks, forward and backward, since
  // reset_tallies(); of dispatch and combine only what this thread did itself (the lane keeps its own times).
  const std::array<double, 4>& segment_seconds() const { return segment_seconds_; }

 private:
  void split(const MicroBatch& batch);
  using Part = void (*)(const SegmentArgs&);
  void run(Track& track, int layer, std::size_t segment, Part part);
  void communicate(Track& track, int layer, std::size_t segment, Part part);
  void await(Track& track);
  void forward_block(int layer, int next_unit);
  void forward_pre(int layer);
  void forward_experts(int layer);
  void backward_layer(int layer, bool last_of_step);
  void use_head();
  void release_head();
  void begin_head_gradients();
  void normalise(Track& track);
  CacheStep cache_step(std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, int module);
  void head_of_runs(Mat hidden_TD);
  void head_backward(Track& track, Mat n_TD, Mat dn_TD);
  void ends_forward();
  void ends_backward(bool last_of_step);
  void embedding_backward(bool last_of_step);
  // pass_mtp.cpp
  int module_of(int layer) const { return layer - model_.config().num_layers; }  // < 0: none
  void forward_modules(const MicroBatch& batch);
  void module_loss(Track& track, int module);
  void join_backward(Track& track, int module);
  void backward_modules(bool last_of_step);

  Model& model_;
  PassOptions options_;
  Env env_;
  int num_modules_;
  std::unique_ptr<Arena> arena_, rows_arena_;
  PlanRooms plan_rooms_;
  std::vector<BlockParams> block_params_;
  std::vector<std::unique_ptr<Track>> tracks_;
  RopeTables rope_;
  CacheRows cache_rows_;
  std::unique_ptr<Tallies> tallies_;
  std::vector<float> losses_, logits_;  // of the host, if the device is another
  std::array<double, 4> segment_seconds_{};
  std::int64_t most_rows_ = 0;
};

// Tracks that a pass has on a mesh.
int num_tracks(const PassOptions& pass, const MeshOptions& mesh);

// Bytes by purpose on one rank: what --dry-run prints is counted by the code that allocates. Rows are counted as balanced
// routing gives them; room for all of them is reserved, and used when they come.
struct ModelMemory {
  std::size_t weights = 0, masters = 0, grads = 0, moments = 0, activations = 0;
  std::size_t buffers = 0;  // gathered weights, gradients and rows on their way
  std::size_t ema = 0;      // moving average of the masters
  std::size_t staging = 0;  // copy of what is being saved while training goes on; the caller knows
  std::size_t total() const { return weights + masters + grads + moments + ema + activations + buffers + staging; }
  // Of a rank on a GPU: what is in memory of the host, and what is in the GPU's.
  std::size_t on_host() const { return ema + staging; }
  std::size_t on_gpu() const { return total() - on_host(); }
  std::size_t saved = 0;  // of these, what goes into a checkpoint; replicas share it out
};
// rows_of_track >= 0: with so many rows in each track instead (Pass::most_rows()).
ModelMemory predict_memory(const ModelConfig& config, DType dtype, const PassOptions& pass, const MeshOptions& mesh = {},
                           const MeshPlace& place = {}, std::int64_t rows_of_track = -1, const TrainingState& state = {},
                           DeviceKind device = DeviceKind::kCpu);

// b_i += speed * sign(mean - counts_i), sign(0) = 0 (arXiv 2408.15664, algorithm 1), after a global batch.
void update_router_bias(std::span<float> bias_E, std::span<const std::int64_t> counts_E, float speed);

}  // namespace moe
