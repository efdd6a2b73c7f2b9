// What several commands of moe-place read: loads from routing statistics, from a trace or from a table, the topology, plans.
// Not here: the file formats (lib/io).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/io/plan_file.h"
#include "lib/place/loads.h"
#include "lib/place/score.h"
#include "lib/place/topology.h"

namespace moe {

struct PlaceInputs {
  std::string output;    // -o
  std::string routing;   // --routing: routing statistics or a trace of router decisions
  std::string loads;     // --loads: a table as text, CSV or JSON
  std::string topology;  // --topology "node:4 rank:8"
  ReplicaChoice replica_choice = ReplicaChoice::kSpread;
};
void add_place_inputs(Options& options, PlaceInputs& inputs);

// A file of loads, read once.
struct RecordedLoads {
  std::vector<std::int64_t> step_S;                                // recorded steps, ascending; empty: a table without steps
  std::function<Loads(std::int64_t first, std::int64_t last)> of;  // of the steps with first <= step <= last
};
// Routing statistics, a trace (with samples of single tokens), CSV (place_loads_csv.h) or JSON (place_text.h): told apart by
// what they hold, not by their names. Co-activation of statistics is that of the whole run. Error 66; 65 naming layer or
// line.
RecordedLoads open_loads(const std::string& path);
Loads read_loads(const std::string& path, std::int64_t first_step = 0, std::int64_t last_step = INT64_MAX);
// Of --routing or --loads, whichever is given. Error(kUsage) if none or both are.
Loads read_loads(const PlaceInputs& inputs);
const std::string& loads_path(const PlaceInputs& inputs);
// Error(kBadInput) if layers or experts of the two differ, naming both.
void need_same_model(const Placement& placement, const std::string& plan_path, const Loads& loads);
// --topology if given, else that of the plan. Error(kUsage) if the ranks differ.
Topology plan_topology(const PlanFile& plan, const std::string& plan_path, const PlaceInputs& inputs);

}  // namespace moe
