#include "lib/run/place_solve.h"

#include <algorithm>

#include "kernels/device.h"
#include "lib/base/byte_size.h"
#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/io/verify.h"
#include "lib/place/eplb.h"
#include "lib/run/place_solve_report.h"
#include "lib/run/result.h"

namespace moe {

void add_place_solve_options(Options& o, PlaceSolveOptions& s) {
  o.group("Solving");
  o.add("policy", s.policy, "own: the solver of this toolkit; eplb: EPLB's published algorithm; linear: as without a plan")
      .value = "own|eplb|linear";
  o.add("objective", s.objective, "even load of ranks, few rows between nodes, or least time by the cost model",
        {"balance", "traffic", "time"});
  o.add("replicas", s.replicas, "slots of a layer beyond one per expert");
  o.add("groups", s.groups, "routing groups of neighbouring experts (eplb, --keep-groups, check)");
  o.add("keep-groups", s.keep_groups, "each group's experts inside one node, as routing limited to nodes needs it");
  o.add("from", s.from, "old plan to start from; its pins stay").value = "PLAN";
  o.add("move-budget", s.move_budget, "most bytes of experts that change ranks against --from, all layers").value = "SIZE";
  o.add("memory-per-rank", s.memory_per_rank, "most bytes of experts of a rank, all layers; several: one per rank").value =
      "SIZE[,SIZE...]";
  o.add("expert-bytes", s.expert_bytes, "of one expert of a layer with its training state; 0: moves are counted in copies");
  o.add("balance-limit", s.balance_limit, "max/mean load of ranks that --objective traffic keeps where it can be had");
  o.add("seconds", s.seconds, "time for the search, all layers; 0: until nothing improves");
}

namespace {

// "8G" or "8G,4G,...": the slots of a layer that fit on each rank.
std::vector<int> slots_that_fit(const PlaceSolveOptions& s, int num_ranks, std::size_t num_layers) {
  if (s.memory_per_rank.empty()) return {};
  if (s.expert_bytes <= 0)
    throw Error(Exit::kUsage, "--memory-per-rank: expected --expert-bytes, too, found none",
                "bytes of one expert of a layer with its training state");
  std::vector<int> slots_R;
  for (const std::int64_t bytes :
       parse_byte_sizes(s.memory_per_rank, "--memory-per-rank", static_cast<std::size_t>(num_ranks))) {
    const std::int64_t fit = bytes / s.expert_bytes / static_cast<std::int64_t>(num_layers);
    slots_R.push_back(static_cast<int>(std::min<std::int64_t>(fit, 1 << 20)));
  }
  return slots_R;
}

std::vector<Pin> pins_of(const PlanFile& plan) {
  std::vector<Pin> pins;
  for (std::size_t l = 0; l < plan.pinned_LS.size(); ++l) {
    const std::vector<int> slot2expert = plan.placement.placed[l].slot2expert(),
                           slot2rank = plan.placement.placed[l].slot2rank();
    for (std::size_t i = 0; i < plan.pinned_LS[l].size(); ++i)
      if (plan.pinned_LS[l][i] != 0) pins.push_back({plan.placement.layers[l], slot2expert[i], slot2rank[i]});
  }
  return pins;
}

std::int64_t budget_in_copies(const PlaceSolveOptions& s) {
  if (s.move_budget.empty()) return -1;
  if (s.from.empty() || s.expert_bytes <= 0)
    throw Error(Exit::kUsage, "--move-budget: expected --from and --expert-bytes, too, found " +
                                  std::string(s.from.empty() ? "no old plan" : "no size of an expert"));
  return s.move_budget == "0" ? 0 : parse_byte_size(s.move_budget, "--move-budget") / s.expert_bytes;
}

SolveRequest request_of(const PlaceSolveOptions& s, const Loads& loads, const Topology& topology, const PlaceInputs& inputs,
                        const PlaceScoreOptions& costs, const CommonOptions& common) {
  SolveRequest r;
  r.topology = topology;
  r.objective = s.objective;
  r.num_slots = loads.num_experts + s.replicas;
  r.max_slots_R = slots_that_fit(s, topology.num_ranks(), loads.layers.size());
  r.num_groups = s.groups;
  r.keep_groups = s.keep_groups;
  r.move_budget = budget_in_copies(s);
  r.balance_limit = s.balance_limit;
  r.cost = cost_model(costs);
  r.tokens_per_step = static_cast<double>(costs.tokens_per_step);
  r.choice = inputs.replica_choice;
  r.seconds = s.seconds;
  r.num_threads = Stream(common.threads).num_threads();
  const bool has_cost = costs.tokens_per_step > 0 && (costs.row_us > 0 || (costs.row_bytes > 0 && costs.inter_mbit > 0));
  if (s.objective == Objective::kTime && !has_cost)
    throw Error(Exit::kUsage, "--objective time: expected a cost model, found none",
                "--tokens-per-step with --row-us, or with --row-bytes and --inter-mbit");
  return r;
}

Placement eplb_placement(const Loads& loads, const SolveRequest& r) {
  const std::vector<int> ranks_N = r.topology.num_ranks_of_node();
  if (std::adjacent_find(ranks_N.begin(), ranks_N.end(), std::not_equal_to<>()) != ranks_N.end())
    throw Error(Exit::kUsage, "EPLB: expected nodes of equal size, found " + topology_text(r.topology),
                "the own policy has no such limit");
  Placement plan{loads.num_experts, loads.layers, {}};
  for (const LayerLoads& layer : loads.of_layer)
    plan.placed.push_back(
        eplb_layer(layer.load_E, r.num_slots, r.num_groups, r.topology.num_nodes(), r.topology.num_ranks()));
  return plan;
}

Placement placement_by(const std::string& policy, const Loads& loads, const SolveRequest& r) {
  if (policy == "own") return solve(loads, r);
  if (policy == "eplb") return eplb_placement(loads, r);
  if (policy != "linear") throw Error(Exit::kUsage, "--policy: expected own, eplb or linear, found '" + policy + "'");
  return linear_placement(loads.layers, loads.num_experts, r.topology.num_ranks());
}

// Which slots of the plan hold what the pins asked for.
std::vector<std::vector<std::uint8_t>> pinned_slots(const Placement& plan, const std::vector<Pin>& pins) {
  std::vector<std::vector<std::uint8_t>> pinned_LS;
  for (std::size_t l = 0; l < plan.layers.size(); ++l) {
    const std::vector<int> slot2expert = plan.placed[l].slot2expert(), slot2rank = plan.placed[l].slot2rank();
    auto& pinned_S = pinned_LS.emplace_back(slot2expert.size());
    for (std::size_t i = 0; i < slot2expert.size(); ++i)
      for (const Pin& p : pins)
        if (p.layer == plan.layers[l] && p.expert == slot2expert[i] && p.rank == slot2rank[i]) pinned_S[i] = 1;
  }
  return pinned_LS;
}

void check_words(const std::vector<std::string>& words, PlaceInputs& inputs, const PlaceSolveOptions& s) {
  if (words.size() > 1 || (words.size() == 1 && !inputs.routing.empty()))
    throw Error(Exit::kUsage, "solve: expected one file of routing, found " +
                                  std::to_string(words.size() + (inputs.routing.empty() ? 0 : 1)));
  if (words.size() == 1) inputs.routing = words[0];
  if (s.replicas < 0) throw Error(Exit::kUsage, "--replicas: expected 0 or more, found " + std::to_string(s.replicas));
  if (inputs.topology.empty() && s.from.empty())
    throw Error(Exit::kUsage, "solve: expected --topology \"node:4 rank:8\" (or --from PLAN), found none");
}

// To -o, if there is one. Returns the line that says so.
std::string write_solved(const SolvedPlan& solved, const PlaceInputs& inputs, const PlaceSolveOptions& s,
                         const PlanFile& old, const std::vector<Pin>& pins, const CommonOptions& common,
                         const Invocation& invocation) {
  if (inputs.output.empty()) return "";
  if (common.dry_run) return "nothing written (--dry-run)\n";
  std::vector<std::pair<std::string, std::string>> read = {{loads_path(inputs), file_digest(loads_path(inputs))}};
  if (!s.from.empty()) read.emplace_back(s.from, file_digest(s.from));
  write_plan_file(inputs.output,
                  {solved.placement, solved.topology.rank2node, pinned_slots(solved.placement, pins), predicted_json(solved),
                   provenance_chain(invocation, old.provenance, read)},
                  common.force, s.policy != "eplb");
  return "wrote " + inputs.output + "\n";
}

const char* name_of(Objective objective) {
  constexpr const char* kNames[] = {"balance", "traffic", "time"};
  return kNames[static_cast<int>(objective)];
}

}  // namespace

Exit place_solve(const std::vector<std::string>& words, PlaceInputs inputs, const PlaceSolveOptions& s,
                 const PlaceScoreOptions& costs, const CommonOptions& common, const Invocation& invocation) {
  check_words(words, inputs, s);
  const Loads loads = read_loads(inputs);
  PlanFile old;
  if (!s.from.empty()) {
    old = read_plan_file(s.from);
    need_same_model(old.placement, s.from, loads);
  }
  SolvedPlan solved;
  solved.topology = s.from.empty() ? parse_topology(inputs.topology) : plan_topology(old, s.from, inputs);
  SolveRequest request = request_of(s, loads, solved.topology, inputs, costs, common);
  if (!s.from.empty()) {
    request.from = &old.placement;
    request.pins = pins_of(old);
  }
  Stopwatch watch;
  solved.placement = placement_by(s.policy, loads, request);
  solved.seconds = watch.seconds();
  solved.policy = s.policy;
  solved.from = s.from;
  solved.objective = name_of(s.objective);
  solved.expert_bytes = s.expert_bytes;
  const auto score_of = [&](const Placement& p) {
    return score(p, loads, solved.topology, request.cost, request.tokens_per_step, request.choice);
  };
  const Placement linear = linear_placement(loads.layers, loads.num_experts, solved.topology.num_ranks());
  solved.score = score_of(solved.placement);
  solved.linear = score_of(linear);
  solved.moves = moves(s.from.empty() ? linear : old.placement, solved.placement, solved.topology);
  const std::string written = write_solved(solved, inputs, s, old, request.pins, common, invocation);
  print_result(common, solve_json(solved), solve_table(solved) + written);
  return Exit::kOk;
}

}  // namespace moe
