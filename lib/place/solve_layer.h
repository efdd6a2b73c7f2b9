// One layer of a request: the slots that its ranks may have, and the balance solver that all objectives begin with. Not
// here: budgets over layers (solve_budget.h), traffic (solve_traffic.h).
#pragma once

#include <functional>
#include <vector>

#include "lib/place/packing.h"
#include "lib/place/solve.h"

namespace moe {

// Experts, slots and pins of layer i of the loads. Error(kUsage) naming what there is no room for.
LayerProblem layer_problem(const Loads& loads, std::size_t i, const SolveRequest& request);

using Stop = std::function<bool()>;  // true: out of time; may be empty

// The load of the worst rank below which the search ends: within 1e-4 of the lower bound.
double enough_load(const LayerProblem& problem);

// From the old placement if there is one and it leads near enough to the best, else from the start.
LayerPlacement balance_layer(const LayerProblem& problem, int num_kicks, const Stop& stop);

// What a node holds: its experts, the load of each there, and how many copies (empty: as the solver finds best).
struct NodePart {
  std::vector<int> experts;
  std::vector<double> load;
  std::vector<int> num_copies;
};
// Every node for itself.
LayerPlacement balance_nodes(const LayerProblem& problem, const Topology& topology, const std::vector<NodePart>& part_N,
                             int num_kicks, const Stop& stop);

// Whole routing groups on nodes: as even per rank as whole groups allow, pinned ones where their pins are.
std::vector<int> groups_to_nodes(const LayerProblem& problem, const Topology& topology, int num_groups);
// What the nodes hold then.
std::vector<NodePart> parts_of_groups(const LayerProblem& problem, const std::vector<int>& group2node, int num_nodes);

}  // namespace moe
