// One optimizer step: gradients of the global batch, micro-batch by micro-batch, the finite check, clipping, AdamW, the
// router bias. Not here: when to stop, save, evaluate or log (lib/run/train.cpp).
#pragma once

#include <vector>

#include "lib/model/load_metrics.h"
#include "lib/model/model.h"
#include "lib/run/data_order.h"
#include "lib/run/train_options.h"

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
  double aux = 0, seq_aux = 0, global_aux = 0, z = 0;  // balance losses, summed over layers
  double grad_norm = 0, lr = 0;
  double seconds = 0, data_seconds = 0, forward_seconds = 0, backward_seconds = 0, optimizer_seconds = 0;
  double experts_seconds = 0, exchange_seconds = 0;  // of forward and backward: expert segments; dispatch and combine
  bool updated = true;  // false: not finite, skipped
  std::vector<LayerResult> layers;
};

class Trainer {
 public:
  Trainer(const TrainOptions& options, Model& model, const TokenSource& data, Env env);

  // The step after steps_done(). Not finite: no parameter changes, the samples count as consumed.
  StepResult step(double lr);

  std::int64_t steps_done = 0;        // calls of step() that count, skipped ones included
  std::int64_t updates_done = 0;      // AdamW updates: the exponent of its bias correction
  std::int64_t consumed_samples = 0;  // the next sample of the data order
  const DataOrder& order() const { return order_; }
  // Tokens that chose both experts, per MoE layer, since the start; taken over by the routing recorder.
  const std::vector<RoutingTally>& last_tallies() { return pass_.tallies(); }

 private:
  void load_batch();
  void gradients(StepResult& result);
  void update(StepResult& result);
  void collect(StepResult& result);

  const TrainOptions& options_;
  Model& model_;
  Env env_;
  DataOrder order_;
  Pass pass_;
  std::vector<std::int32_t> id_BT_, target_BT_, doc_start_BT_;  // the global batch
  std::int64_t counted_tokens_ = 0;
};

}  // namespace moe
