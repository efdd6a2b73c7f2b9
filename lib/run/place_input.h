// What several commands of moe-place read: loads from routing statistics, from a trace or from a table, the topology, plans.
// Not here: the file formats (lib/io).
#pragma once

#include <string>

#include "lib/base/common_options.h"
#include "lib/io/plan_file.h"
#include "lib/place/loads.h"
#include "lib/place/score.h"
#include "lib/place/topology.h"

namespace moe {

struct PlaceInputs {
  std::string output;    // -o
  std::string routing;   // --routing: routing statistics or a trace of router decisions
  std::string loads;     // --loads: CSV, a line per layer, a column per expert
  std::string topology;  // --topology "node:4 rank:8"
  ReplicaChoice replica_choice = ReplicaChoice::kSpread;
};
void add_place_inputs(Options& options, PlaceInputs& inputs);

// Of the file at `path`, whatever it is: routing statistics (all recorded steps, or those with first <= step <= last), a
// trace (with samples), or CSV. Error 66, 65, naming layer or line.
Loads read_loads(const std::string& path, std::int64_t first_step = 0, std::int64_t last_step = INT64_MAX);
// Of --routing or --loads, whichever is given. Error(kUsage) if none or both are.
Loads read_loads(const PlaceInputs& inputs);
// Error(kBadInput) if layers or experts of the two differ, naming both.
void need_same_model(const Placement& placement, const std::string& plan_path, const Loads& loads);

}  // namespace moe
