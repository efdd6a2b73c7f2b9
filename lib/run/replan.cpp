#include "lib/run/replan.h"

#include <algorithm>
#include <cstdio>
#include <map>

#include "lib/comm/collectives.h"
#include "lib/model/host_model.h"
#include "lib/parallel/migrate.h"
#include "lib/place/score.h"
#include "lib/place/solve.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

// The expert-parallel group of rank 0, as all are taken to be. Nodes whose ranks are not neighbours count as one.
Topology topology_of(const MeshContext& mesh) {
  Topology topology;
  std::map<int, int> seen;
  for (int r = 0; r < mesh.options().shape.ep; ++r) {
    const int node = mesh.world().rank2node()[static_cast<std::size_t>(r)];
    topology.rank2node.push_back(seen.try_emplace(node, static_cast<int>(seen.size())).first->second);
  }
  if (!std::is_sorted(topology.rank2node.begin(), topology.rank2node.end()))
    std::fill(topology.rank2node.begin(), topology.rank2node.end(), 0);
  return topology;
}

Placement present_plan(const MeshContext& mesh, const std::vector<int>& layers, int num_experts) {
  const Placement& plan = mesh.options().plan;
  return plan.layers.empty() ? linear_placement(layers, num_experts, mesh.options().shape.ep) : plan;
}

std::uint64_t fingerprint_of_all(const ParamStore& store, World& world) {
  auto sum = static_cast<std::int64_t>(state_fingerprint(store) & 0xffffffffu);  // 2^31 ranks do not overflow it
  if (!world.alone()) world.lane().call("migrate", [&] { all_reduce_sum(world.comm(), "migrate", std::span(&sum, 1)); });
  return static_cast<std::uint64_t>(sum) & 0xffffffffu;
}

}  // namespace

MeshModel make_mesh_model(World& world, const MeshOptions& mesh, const TrainOptions& o, Env env) {
  MeshModel m;
  m.mesh = std::make_unique<MeshContext>(world, mesh, o.model.num_experts, env.kernels, env.stream.device());
  world.agree([&] { m.mesh->check_node_limit(o.model); });
  m.model = std::make_unique<Model>(o.model, o.dtype, true, *m.mesh, training_state(o));
  return m;
}

MeshModel migrated(const MeshModel& from, const Placement& plan, const TrainOptions& o, Env env) {
  World& world = from.mesh->world();
  MeshOptions options = from.mesh->options();
  options.plan = plan;
  MeshModel to = make_mesh_model(world, options, o, env);
  Comm* const dense = from.mesh->unit_comms().dense;
  HostModel host_from(*from.model), host_to(*to.model);
  host_from.pull();
  const ParamStore &store = host_from.model().params(), &moved = host_to.model().params();
  world.lane().call("migrate", [&] {
    migrate_state(store, from.mesh->rank_layouts(), host_to.model().params(), to.mesh->rank_layouts(), dense);
  });
  for (const int layer : from.model->moe_layers()) host_to.model().router_bias(layer) = from.model->router_bias(layer);
  const std::uint64_t before = fingerprint_of_all(store, world), after = fingerprint_of_all(moved, world);
  if (before != after)
    throw AgreedError(Exit::kInternal, "migration: expected the state to be the same, found another fingerprint",
                      "the old placement goes on", 0);
  host_to.push();
  to.model->units().weights_changed();
  return to;
}

void Replanner::add_step(const StepResult& step) {
  if (!enabled()) return counts_LE_.clear();  // a checkpoint may have had some
  counts_LE_.resize(step.layers.size());
  for (std::size_t i = 0; i < step.layers.size(); ++i) {
    // Another number of experts: of a checkpoint that was cut down to some.
    if (counts_LE_[i].size() != step.layers[i].counts_E.size()) counts_LE_[i].assign(step.layers[i].counts_E.size(), 0);
    std::transform(counts_LE_[i].begin(), counts_LE_[i].end(), step.layers[i].counts_E.begin(), counts_LE_[i].begin(),
                   std::plus<>());
  }
}

Loads Replanner::take_loads(const std::vector<int>& moe_layers, const std::vector<std::int64_t>& coactivation_LEE) {
  Loads loads{.num_experts = o_.model.num_experts, .top_k = o_.model.top_k, .layers = moe_layers};
  const auto pairs = static_cast<std::size_t>(o_.model.num_experts) * static_cast<std::size_t>(o_.model.num_experts);
  for (std::size_t i = 0; i < moe_layers.size(); ++i) {
    LayerLoads layer;
    layer.load_E.assign(counts_LE_[i].begin(), counts_LE_[i].end());
    const auto E = layer.load_E.size();
    // Pairs may be of fewer steps than counts (a save takes them too): then both are of those.
    if (o_.objective == Objective::kTraffic)
      for (std::size_t e = 0; e < E; ++e) layer.load_E[e] = static_cast<double>(coactivation_LEE[(i * E + e) * E + e]);
    for (const double load : layer.load_E) layer.num_tokens += load / o_.model.top_k;
    const auto first = coactivation_LEE.begin() + static_cast<std::ptrdiff_t>(i * pairs);
    layer.coactivation_EE.assign(first, first + static_cast<std::ptrdiff_t>(pairs));
    loads.of_layer.push_back(std::move(layer));
  }
  counts_LE_.clear();
  return loads;
}

// Rank 0 solves; the others get its plan as a text, so that no rounding of one machine makes two plans.
std::optional<Replanner::Decision> Replanner::decide(const MeshContext& mesh, const std::vector<int>& moe_layers,
                                                     const std::vector<std::int64_t>& coactivation_LEE) {
  if (counts_LE_.empty() || mesh.options().shape.ep == 1) return std::nullopt;
  const Loads loads = take_loads(moe_layers, coactivation_LEE);
  const Topology topology = topology_of(mesh);
  const Placement before = present_plan(mesh, moe_layers, o_.model.num_experts);
  const ReplicaChoice choice = mesh.options().replica_choice;
  World& world = mesh.world();
  std::string text;
  world.agree([&] {
    if (world.rank() != 0) return;
    const SolveRequest request{.topology = topology,
                               .objective = o_.objective,
                               .num_slots = o_.model.num_experts + o_.replicas,
                               .from = &before,
                               .choice = choice};  // no limit of time: the same loads give the same plan
    text = plan_json(solve(loads, request)).dump();
  });
  broadcast_text(world, "replan", text);
  Decision d{.plan = plan_of_layout({{"plan", nlohmann::json::parse(text)}})};
  const PlanScore was = score(before, loads, topology, {}, 0, choice), is = score(d.plan, loads, topology, {}, 0, choice);
  d.before = was.mean_max_over_mean, d.after = is.mean_max_over_mean;
  d.rows_before = was.inter_node_rows_per_token, d.rows_after = is.inter_node_rows_per_token;
  d.num_moves = static_cast<int>(moves(before, d.plan, topology).size());
  const bool gains = o_.objective == Objective::kTraffic ? d.rows_after < (1 - kLeastGain) * d.rows_before
                                                         : d.after < (1 - kLeastGain) * d.before;
  if (!gains || d.num_moves == 0) return std::nullopt;
  return d;
}

std::string decision_text(const Replanner::Decision& d) {
  char text[200];
  std::snprintf(text, sizeof text,
                "moved %d %s of experts: max/mean rows of a rank %.3f -> %.3f, rows that cross nodes per token %.3f -> %.3f",
                d.num_moves, d.num_moves == 1 ? "copy" : "copies", d.before, d.after, d.rows_before, d.rows_after);
  return text;
}

}  // namespace moe
