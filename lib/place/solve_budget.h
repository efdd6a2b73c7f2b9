// Balance with few moves: how a budget of moved copies is shared out among layers. Not here: the steps themselves
// (solve_steps.h).
#pragma once

#include "lib/place/solve_layer.h"

namespace moe {

// From the problems' old placements, at most `budget` copies to ranks that did not have them, over all layers: those steps
// first that make worst ranks lightest per copy. Copies that a problem must move (new slots, pins) come first.
// Error(kUsage) if these alone are more.
std::vector<LayerPlacement> balance_with_budget(const std::vector<LayerProblem>& problems, std::int64_t budget,
                                                int num_threads);

}  // namespace moe
