#include "lib/place/solve_traffic.h"
namespace moe {
LayerPlacement traffic_layer(const LayerProblem& problem, const LayerLoads&, int, const SolveRequest&, int num_kicks,
                             const Stop& stop) {
  return balance_layer(problem, num_kicks, stop);
}
}  // namespace moe
