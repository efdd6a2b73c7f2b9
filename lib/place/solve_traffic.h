// Placements that keep a token's experts on few nodes. Not here: balance alone (solve_layer.h).
#pragma once

#include "lib/place/solve_layer.h"

namespace moe {

LayerPlacement traffic_layer(const LayerProblem& problem, const LayerLoads& loads, int top_k, const SolveRequest& request,
                             int num_kicks, const Stop& stop);

}  // namespace moe
