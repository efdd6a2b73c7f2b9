// One optimizer step on all ranks: gradients of the global batch, micro-batch by micro-batch, the finite check, clipping,
// AdamW or Muon, the moving average of parameters, the router bias. What a step tells (loss, norm, loads) is of the global
// batch and the same on every rank; times are this rank's. Not here: when to stop, save, evaluate or log
// (lib/run/train.cpp).
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "lib/model/load_metrics.h"
#include "lib/model/model.h"
#include "lib/parallel/muon.h"
#include "lib/run/global_batch.h"
#include "lib/run/train_options.h"
#include "lib/tensor/phase_clock.h"

namespace moe {

struct LayerResult {
  int layer = 0;
  LoadMetrics load;
  double entropy = 0;        // mean over tokens of the router's scores, nats
  std::int64_t dropped = 0;  // rows over an expert's capacity
  double bias_min = 0, bias_max = 0;
  std::vector<std::int64_t> counts_E;
};

struct StepResult {
  std::int64_t step = 0;
  double loss = 0;                                     // cross-entropy, nats per counted token of the global batch
  std::vector<double> mtp_loss;                        // the same of each module of multi-token prediction
  double aux = 0, seq_aux = 0, global_aux = 0, z = 0;  // balance losses, summed over layers
  double grad_norm = 0, lr = 0;
  int batch = 0;            // sequences
  std::int64_t tokens = 0;  // trained on so far
  double bias_update_speed = 0, mtp_weight = 0;
  // This rank's. On a GPU that of the optimizer is of the update of the step before, which runs under the beginning of this
  // one: as much of it as this step waited for behind its data.
  double seconds = 0, data_seconds = 0, forward_seconds = 0, backward_seconds = 0, optimizer_seconds = 0;
  double ema_seconds = 0;  // of optimizer_seconds: the moving average; 0 on a GPU
  // Of forward and backward: expert segments; dispatch and combine. Not known of what a GPU does between its other kernels.
  std::optional<double> experts_seconds, exchange_seconds;
  double exposed_seconds = 0;            // of all communication: what nothing was computed under
  double device_bytes = 0;               // in use on this rank's GPU, by whomever; 0 on the CPU
  std::map<std::string, LaneTime> lane;  // communication by name
  bool stop = false;                     // some rank was asked to stop
  double run_seconds = 0;                // rank 0's clock, before the update
  int num_busy = 0;                      // ranks that write a checkpoint
  bool updated = true;                   // false: not finite, skipped
  std::vector<LayerResult> layers;
};

// What a rank brings to a step for all to agree on: its own clock says nothing to the others.
struct StepNews {
  std::function<double()> clock = [] { return 0.0; };  // seconds of the run; rank 0's counts
  std::function<bool()> stop = [] { return false; };
  std::function<bool()> busy = [] { return false; };  // writes a checkpoint
};

// *squares (of the device) += this rank's part of the sum of squares of all gradients. Over all ranks each element is
// counted once: the shards of a replica are disjoint but for copies of experts, which count where they are spoken for, and
// the replicas, whose gradients are equal, share each shard out.
void gradient_squares(Model& model, Env env, double* squares);

class Trainer {
 public:
  Trainer(const TrainOptions& options, Model& model, const TokenSource& data, Env env);

  // The step after steps_done(). progress: the part of the run that is over (run_progress()), for values that change on the
  // way. Not finite on any rank: no parameter changes anywhere, the samples count as consumed.
  StepResult step(double lr, const StepNews& news = {}, double progress = 0);

  // The counters of another trainer of the same run.
  void go_on_from(const Trainer& before);

  std::int64_t steps_done = 0;        // calls of step() that count, skipped ones included
  std::int64_t updates_done = 0;      // updates: the exponent of AdamW's bias correction
  std::int64_t consumed_samples = 0;  // the next sample of the data order
  const DataOrder& order() const { return order_; }
  const BatchCut& cut() const { return batch_.cut(); }
  RoutingTally& tally(int layer) { return pass_.tallies()[static_cast<std::size_t>(layer)]; }  // of this rank's last step
  // Tokens that chose both experts, [MoE layers, E, E], since the last call, of all ranks. A collective call.
  std::vector<std::int64_t> take_coactivation();

 private:
  void load_batch(StepResult& result);
  void gradients();
  void agree(StepResult& result, const StepNews& news);
  void update(StepResult& result);
  void update_parameters(const StepResult& result);
  void update_average();
  void collect_phases(StepResult& result, std::int64_t loaded_ns);
  void collect(StepResult& result);

  const TrainOptions& options_;
  Model& model_;
  Env env_;
  DataOrder order_;
  Pass pass_;
  GlobalBatch batch_;
  std::unique_ptr<Muon> muon_;             // with --optimizer muon
  std::int64_t counted_tokens_ = 0;        // of all ranks
  std::vector<std::int64_t> mtp_counted_;  // by module
  std::vector<double> mtp_scale_;          // factors of the summed losses
  DeviceNumber squares_;                   // of this rank's gradients
  PhaseClock clock_;
  std::vector<std::int64_t> coactivation_LEE_;
};

}  // namespace moe
