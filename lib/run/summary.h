// What a run is, on one screen: the box of --dry-run and of the start, and the same as JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lib/model/model.h"
#include "lib/model/params.h"
#include "lib/run/step_traffic.h"
#include "lib/run/train_options.h"

namespace moe {

struct RunSummary {
  ParamCounts params;
  double flop_per_token = 0, flop_per_token_full_attention = 0;
  MeshShape mesh;
  int micro_batch = 0;  // sequences of one rank at a time
  ModelMemory memory;   // of rank 0
  DeviceKind device = DeviceKind::kCpu;
  std::int64_t tokens_per_step = 0;
  std::int64_t steps = 0;                               // 0: until the time limit
  std::int64_t data_tokens = 0, samples_per_epoch = 0;  // 0: no data given
  std::int64_t tokens = 0;                              // of these steps
  double checkpoint_bytes = 0;
  std::optional<StepTraffic> traffic;  // of a mesh
};

RunSummary summarize(const TrainOptions& options, const MeshOptions& mesh, std::int64_t data_tokens,
                     std::int64_t samples_per_epoch, std::int64_t steps, DeviceKind device);
// Memory of the rank at `place`, as predicted.
ModelMemory rank_memory(const TrainOptions& options, const MeshOptions& mesh, const MeshPlace& place, DeviceKind device);

// Lines of a box: title on top, "label  value" rows inside.
std::string boxed(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows);
std::string summary_box(const TrainOptions& options, const RunSummary& summary, const std::string& machine);
// The keys that scripts rely on: params_total, params_active, params_active_no_embedding, flop_per_token, ...
nlohmann::json summary_json(const RunSummary& summary);

// 1.3e9 -> "1.300 B".
std::string count_text(double n);

}  // namespace moe
