// moe-train --router-trace: the decisions of the routers for all tokens of the global batch, gathered to rank 0 step by step
// and written in the order of the global batch, so that the file does not depend on the mesh. Not here: the file
// (lib/io/router_trace.h), how decisions are kept (RoutingTally).
#pragma once

#include <memory>
#include <vector>

#include "lib/io/router_trace.h"
#include "lib/run/trainer.h"

namespace moe {

// idx_LTK of the last step on rank 0, empty on the others: tokens sequence by sequence of the global batch. A collective
// call; the tallies of all MoE layers must have recorded.
std::vector<std::int16_t> gather_decisions(World& world, Trainer& trainer, const std::vector<int>& moe_layers, int top_k);

class TrainTrace {
 public:
  // From here on the trainer records. Error 73, 2 on rank 0.
  TrainTrace(const TrainOptions& options, Model& model, Trainer& trainer);

  // All ranks, after each step and at the end: collective calls.
  void step_done(std::int64_t step);
  void finish(const nlohmann::json& provenance);

 private:
  const TrainOptions& o_;
  World& world_;
  Trainer& trainer_;
  std::vector<int> layers_;
  std::unique_ptr<RouterTraceWriter> writer_;  // rank 0's
};

}  // namespace moe
