// How many rows a token sends per layer, expected of even routing. Not here: bytes (step_traffic.h), loads that were
// measured (lib/place/score.h).
#pragma once

#include <vector>

#include "lib/model/mesh_context.h"

namespace moe {

struct RowsPerToken {
  double inter = 0, intra = 0;  // to other nodes; to other ranks of a node, by the sender or by who forwards
};
// Mean over the MoE layers and all ranks. As Dispatcher sends them: flat to each rank that a token wants; two-level once to
// each node, to the rank with the sender's place in it, and on from there.
RowsPerToken rows_per_token(const ModelConfig& config, const MeshOptions& mesh, const std::vector<int>& rank2node);

}  // namespace moe
