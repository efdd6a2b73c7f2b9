// The files of a run directory: checkpoints, metrics.jsonl, routing.h5, run.svg. Without --output nothing is written. Rank 0
// writes all of them but the checkpoints, which all ranks write together.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "lib/io/checkpoint.h"
#include "lib/io/routing_stats.h"
#include "lib/io/run_lock.h"
#include "lib/run/mesh_save.h"
#include "lib/run/metrics.h"
#include "lib/run/train_options.h"
#include "lib/run/train_state.h"

namespace moe {

class RunOutput {
 public:
  // resumed_step < 0: a new run. Makes the directory; refuses (73) one that holds another run's checkpoints, unless forced,
  // and one that another job writes now.
  RunOutput(const TrainOptions& options, const Invocation& invocation, bool is_first_rank,
            const nlohmann::json& parent_provenance, const TokenFileInfo& data, std::int64_t resumed_step,
            const std::vector<int>& moe_layers);

  bool enabled() const { return !options_.output.empty(); }
  void write_step(const StepResult& result, const RateBase& base, double run_seconds);
  void write_event(const nlohmann::json& row);
  // For routing.h5: which experts were chosen together since the last call, all ranks. A collective call.
  std::vector<std::int64_t> collect_coactivation(Trainer& trainer);
  // What a save of this state takes, routing.h5 up to this step included. A collective call; only with --output.
  SaveRequest request(Model& model, Trainer& trainer, const RunCounters& counters);
  // run.svg from metrics.jsonl and the load of the last step; its path.
  std::string draw(const std::vector<LayerResult>& layers, double unigram_entropy) const;

 private:
  std::string path(const char* name) const { return options_.output + "/" + name; }

  bool writes() const { return enabled() && is_first_rank_; }

  const TrainOptions& options_;
  const Invocation& invocation_;
  bool is_first_rank_;
  TokenFileInfo data_;
  std::optional<RunLock> lock_;
  nlohmann::json provenance_;
  std::unique_ptr<MetricsFile> metrics_;
  std::optional<RoutingRecorder> routing_;
};

}  // namespace moe
