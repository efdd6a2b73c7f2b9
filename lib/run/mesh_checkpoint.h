// Saving and loading a model that is spread over ranks: every rank of the first replica writes what it holds into a file of
// its own, rank 0 publishes. Collective calls; a failure of one rank is thrown on all, and what was there stays.
#pragma once

#include "lib/run/train_state.h"

namespace moe {

SavedCheckpoint save_on_mesh(Model& model, const std::string& run_dir, std::int64_t step, const nlohmann::json& state,
                             const nlohmann::json& provenance, const KeepPolicy& keep, bool force);

// Every rank reads its boxes, whatever mesh wrote them.
void load_on_mesh(Model& model, const CheckpointInfo& info);
// The same of load_weights.
void load_weights_on_mesh(Model& model, const CheckpointInfo& info);

}  // namespace moe
