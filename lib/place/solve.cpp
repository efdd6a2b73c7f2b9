#include "lib/place/solve.h"

#include <limits>
#include <string>

#include "lib/base/error.h"
#include "lib/base/stopwatch.h"
#include "lib/base/threads.h"
#include "lib/place/solve_budget.h"
#include "lib/place/solve_layer.h"
#include "lib/place/solve_traffic.h"

namespace moe {
namespace {

constexpr int kKicks = 20;  // without a limit of time

// A layer's part of the time: layers run num_threads at a time.
Stop stop_of(const SolveRequest& request, std::size_t num_layers) {
  if (request.seconds <= 0) return {};
  const double mine = request.seconds * request.num_threads / static_cast<double>(num_layers);
  return [watch = Stopwatch(), mine] { return watch.seconds() > mine; };
}

void check(const Loads& loads, const SolveRequest& request) {
  if (request.topology.num_ranks() < 1) throw Error(Exit::kUsage, "topology: expected at least one rank, found none");
  if (request.from != nullptr && request.move_budget >= 0 &&
      (request.objective != Objective::kBalance || request.keep_groups))
    throw Error(Exit::kUsage, "move budget: expected the objective balance without groups to keep, found another",
                "without a budget the old plan is still where the search begins");
  if (request.from != nullptr && (request.from->layers != loads.layers || request.from->num_experts != loads.num_experts ||
                                  request.from->num_ranks() != request.topology.num_ranks()))
    throw Error(Exit::kUsage, "old plan: expected " + std::to_string(loads.layers.size()) + " layers of " +
                                  std::to_string(loads.num_experts) + " experts on " +
                                  std::to_string(request.topology.num_ranks()) + " ranks, found " +
                                  std::to_string(request.from->layers.size()) + " of " +
                                  std::to_string(request.from->num_experts) + " on " +
                                  std::to_string(request.from->num_ranks()) + ", or other layers");
}

LayerPlacement place_layer(const LayerProblem& problem, const LayerLoads& loads, int top_k, const SolveRequest& request,
                           int num_kicks, const Stop& stop) {
  if (request.objective != Objective::kBalance) return traffic_layer(problem, loads, top_k, request, num_kicks, stop);
  if (!request.keep_groups) return balance_layer(problem, num_kicks, stop);
  const std::vector<int> group2node = groups_to_nodes(problem, request.topology, request.num_groups);
  return balance_nodes(problem, request.topology, parts_of_groups(problem, group2node, request.topology.num_nodes()),
                       num_kicks, stop);
}

}  // namespace

Placement solve(const Loads& loads, const SolveRequest& request) {
  check(loads, request);
  Placement plan{loads.num_experts, loads.layers, std::vector<LayerPlacement>(loads.layers.size())};
  std::vector<LayerProblem> problems;
  for (std::size_t l = 0; l < loads.layers.size(); ++l) problems.push_back(layer_problem(loads, l, request));
  if (request.from != nullptr && request.move_budget >= 0) {
    plan.placed = balance_with_budget(problems, request.move_budget, request.num_threads);
    return plan;
  }
  const int num_kicks = request.seconds > 0 ? std::numeric_limits<int>::max() : kKicks;
  for_each_on_threads(problems.size(), request.num_threads, [&](std::size_t l, std::size_t) {
    plan.placed[l] =
        place_layer(problems[l], loads.of_layer[l], loads.top_k, request, num_kicks, stop_of(request, problems.size()));
  });
  return plan;
}

}  // namespace moe
