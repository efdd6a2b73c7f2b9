// What a run of moe-train says at its end: a box for people, JSON for scripts.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "lib/run/evaluate.h"
#include "lib/run/metrics.h"
#include "lib/run/summary.h"
#include "lib/run/train_state.h"

namespace moe {

struct TrainReport {
  RunSummary summary;
  RunCounters counters;
  RateBase base;
  std::vector<LayerResult> last_layers;
  std::int64_t last_tokens = 0;                          // of the last step
  std::vector<double> last_mtp_loss;                     // by module
  std::optional<Evaluation> evaluation, ema_evaluation;  // of the parameters, of their moving average
  std::int64_t steps_here = 0;                           // of this call, resumed steps not counted
  std::int64_t tokens_here = 0;
  double steps_seconds = 0;  // of those
  std::string checkpoint, picture;

  double tokens_per_second() const;  // 0 if no step was made
};

nlohmann::json train_json(const TrainOptions& options, const TrainReport& report);
std::string train_box(const TrainReport& report);

}  // namespace moe
