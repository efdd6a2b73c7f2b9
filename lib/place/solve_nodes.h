// Exchanges of experts between nodes that make fewer rows cross. Not here: when (solve_traffic.cpp), the counts
// (node_counts.h).
#pragma once

#include <vector>

#include "lib/place/node_counts.h"
#include "lib/place/solve_layer.h"

namespace moe {

struct NodeLimits {
  std::vector<double> fixed_N;  // load of what cannot move
  std::vector<double> limit_N;  // most load of each node; a node above it must not get more
};
// `limit`: most load of a rank.
NodeLimits node_limits(const LayerPlacement& placed, const std::vector<double>& load_E, const Topology& topology,
                       double limit);

// While it helps: the exchanges that save most first. may_E: which items take part.
void exchange_between_nodes(NodeCounts& counts, const std::vector<double>& load_E, const std::vector<bool>& may_E,
                            const NodeLimits& limits, const Stop& stop);
// The same between single ranks of `placed`, which is that of the counts: first as cheaply as possible until no rank is
// above the limit, then what saves rows and keeps it.
void exchange_between_ranks(NodeCounts& counts, const LayerProblem& problem, const std::vector<bool>& may_E, double limit,
                            LayerPlacement& placed, const Stop& stop);

bool has_copies(const LayerProblem& problem);
// Another place to begin, for problems without copies and pins: node by node, the experts that are chosen most often
// together with those already there. No ranks if the limit or the pins do not allow it.
LayerPlacement gathered_start(const LayerProblem& problem, const TokenList& tokens, const Topology& topology, double limit);

}  // namespace moe
