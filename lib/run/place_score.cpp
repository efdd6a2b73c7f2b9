#include "lib/run/place_score.h"

#include "lib/run/place_score_report.h"
#include "lib/run/result.h"

namespace moe {
namespace {

// A part of the cost model alone says nothing.
void check_cost(const PlaceScoreOptions& s) {
  const auto need = [](bool there, const char* name, const std::string& with) {
    if (!there) throw Error(Exit::kUsage, std::string("expected --") + name + " with " + with + ", found none");
  };
  const bool link = s.inter_mbit > 0 || s.row_bytes > 0;
  if (link) need(s.inter_mbit > 0, "inter-mbit", "--row-bytes"), need(s.row_bytes > 0, "row-bytes", "--inter-mbit");
  if (s.row_us > 0 || link) need(s.tokens_per_step > 0, "tokens-per-step", "a cost model");
  if (s.other_ms > 0 || s.tokens_per_step > 0) need(s.row_us > 0 || link, "row-us or --inter-mbit", "the others");
  const double least = std::min({s.row_us, s.inter_mbit, s.other_ms, s.stale_percent, static_cast<double>(s.row_bytes),
                                 static_cast<double>(s.tokens_per_step), static_cast<double>(s.windows)});
  if (least < 0) throw Error(Exit::kUsage, "score: expected numbers from 0, found one below");
}

}  // namespace

void add_place_score_options(Options& o, PlaceScoreOptions& s) {
  o.group("Score: cost of a step, and windows of time");
  o.add("row-us", s.row_us, "microseconds of an expert's work on one row, forward and backward; 0: not counted");
  o.add("row-bytes", s.row_bytes, "bytes sent for a row: dispatch and combine, forward and backward");
  o.add("inter-mbit", s.inter_mbit, "bandwidth of a node's link, each direction, in Mbit/s; 0: not counted");
  o.add("tokens-per-step", s.tokens_per_step, "tokens of a step of the expert-parallel group");
  o.add("other-ms", s.other_ms, "milliseconds of a step that no placement changes");
  o.add("windows", s.windows, "cut the recorded steps into so many windows: is the load stable, when is the plan stale");
  o.add("stale-percent", s.stale_percent, "a plan is stale when its max/mean is so much worse than in the first window");
}

CostModel cost_model(const PlaceScoreOptions& s) {
  check_cost(s);
  return {s.row_us * 1e-6, static_cast<double>(s.row_bytes), s.inter_mbit * 1e6 / 8};
}

Exit place_score(const std::string& plan_path, const PlaceInputs& inputs, const PlaceScoreOptions& options,
                 const CommonOptions& common, const Invocation&) {
  const CostModel cost = cost_model(options);
  const std::string path = loads_path(inputs);
  const PlanFile plan = read_plan_file(plan_path);
  const Topology topology = plan_topology(plan, plan_path, inputs);
  const RecordedLoads recorded = open_loads(path);
  const Loads loads = recorded.of(0, INT64_MAX);
  need_same_model(plan.placement, plan_path, loads);
  const Placement linear = linear_placement(loads.layers, loads.num_experts, topology.num_ranks());
  const auto judge = [&](const Placement& p) {
    return score(p, loads, topology, cost, static_cast<double>(options.tokens_per_step), inputs.replica_choice);
  };
  ScoreReport report{plan_path, path, topology, inputs.replica_choice, loads.layers, judge(plan.placement), judge(linear)};
  report.has_time = options.tokens_per_step > 0;
  report.counted = !loads.of_layer.empty() && !loads.of_layer[0].sample_TK.empty();
  report.other_seconds = options.other_ms * 1e-3;
  report.stale_percent = options.stale_percent;
  if (options.windows > 0) report.windows = score_windows(plan, recorded, topology, inputs, options, common);
  print_result(common, score_json(report), score_text(report, common.verbose));
  return Exit::kOk;
}

}  // namespace moe
