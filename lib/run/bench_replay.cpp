#include "lib/run/bench_replay.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/digest.h"

namespace moe {
namespace {

std::size_t position_of(const std::vector<int>& layers, int layer, const std::string& path) {
  const auto at = std::find(layers.begin(), layers.end(), layer);
  if (at == layers.end())
    throw Error(Exit::kBadInput, path + ": expected layer " + std::to_string(layer) + ", found " +
                                     std::to_string(layers.size()) + " MoE layers from " + std::to_string(layers.front()) +
                                     " to " + std::to_string(layers.back()));
  return static_cast<std::size_t>(at - layers.begin());
}

// Numbers of nodes by their first rank: 0, 1, ...
std::vector<int> renumbered(const std::vector<int>& rank2node) {
  std::vector<int> seen, nodes;
  for (const int node : rank2node) {
    const auto at = std::find(seen.begin(), seen.end(), node);
    nodes.push_back(static_cast<int>(at - seen.begin()));
    if (at == seen.end()) seen.push_back(node);
  }
  return nodes;
}

std::int64_t tokens_of_group(const RowSource& source) {
  std::int64_t tokens = 0;
  for (int r = 0; r < source.num_ranks(); ++r) tokens += source.num_tokens(r);
  return tokens;
}

// Every expert at the first of its copies: where the experts of a synthetic workload are at home.
LayerPlacement without_copies(LayerPlacement placed, int num_experts) {
  std::vector<bool> seen_E(static_cast<std::size_t>(num_experts));
  for (std::vector<int>& experts : placed.rank2experts)
    std::erase_if(experts, [&](int e) {
      const bool seen = seen_E[static_cast<std::size_t>(e)];
      seen_E[static_cast<std::size_t>(e)] = true;
      return seen;
    });
  return placed;
}

}  // namespace

TraceSource::TraceSource(const RouterTrace& trace, std::size_t layer, std::vector<int> world_ranks, int num_ranks)
    : trace_(trace), layer_(layer), world_ranks_(std::move(world_ranks)), num_ranks_(num_ranks) {}

std::string TraceSource::name() const { return "L" + std::to_string(trace_.shape.layers[layer_]); }

BatchCut TraceSource::cut_of(int rank) const {
  return {.batch = static_cast<int>(trace_.tokens_per_step / trace_.seq),
          .micro_batch = 0,
          .seq = static_cast<int>(trace_.seq),
          .num_ranks = num_ranks_,
          .rank = world_ranks_[static_cast<std::size_t>(rank)]};
}

std::int64_t TraceSource::num_tokens(int rank) const { return cut_of(rank).range(0).count * trace_.seq; }

std::vector<std::int32_t> TraceSource::route(int rank, int repetition) const {
  const std::int64_t tokens = num_tokens(rank), first = cut_of(rank).range(0).first * trace_.seq;
  const auto idx_TK = trace_.of(static_cast<std::size_t>(repetition % period()), layer_);
  const auto mine = idx_TK.subspan(static_cast<std::size_t>(first * trace_.shape.top_k),
                                   static_cast<std::size_t>(tokens * trace_.shape.top_k));
  return {mine.begin(), mine.end()};
}

SlotSource::SlotSource(std::unique_ptr<RowSource> logical, std::vector<SlotChoice> choice_R, int top_k)
    : logical_(std::move(logical)), choice_R_(std::move(choice_R)), top_k_(top_k) {}

std::vector<std::int32_t> SlotSource::route(int rank, int repetition) const {
  std::vector<std::int32_t> slot_N;
  choice_R_[static_cast<std::size_t>(rank)].choose(logical_->route(rank, repetition), top_k_, slot_N);
  return slot_N;
}

DispatchInputs::DispatchInputs(const BenchOptions& o) : trace_path_(o.replay), plan_path_(o.ranks.plan) {
  if (!o.replay.empty()) trace_ = std::make_unique<RouterTrace>(read_router_trace(o.replay));
  if (!o.ranks.plan.empty() && o.ranks.plan != "none") plan_ = std::make_unique<PlanFile>(read_plan_file(o.ranks.plan));
}

void DispatchInputs::apply_to(BenchOptions& o) const {
  if (!trace_) return;
  o.model.num_experts = trace_->shape.num_experts;
  o.model.top_k = trace_->shape.top_k;
  o.model.max_nodes_per_token = 0;  // the router of the trace chose
}

std::vector<std::string> DispatchInputs::facts() const {
  std::vector<std::string> facts;
  if (trace_) facts.push_back("replay=" + trace_->digest);
  if (!plan_) return facts;
  Xxh3 digest;
  for (const LayerPlacement& placed : plan_->placement.placed)
    for (const auto& experts : placed.rank2experts) digest.update(std::as_bytes(std::span(experts)));
  facts.push_back("plan=" + digest.digest().hex());
  return facts;
}

std::string DispatchInputs::node_warning(const DispatchGroup& group) const {
  if (!plan_ || renumbered(plan_->rank2node) == renumbered(group.rank2node)) return "";
  return plan_path_ + ": made for other nodes than those of these ranks; its experts lie as it says all the same";
}

LayerPlacement DispatchInputs::placed_of(int layer, const BenchOptions& o, const DispatchGroup& group) const {
  if (!plan_) return linear_layer(o.model.num_experts, group.shape.ep);
  const Placement& p = plan_->placement;
  if (p.num_experts != o.model.num_experts || p.num_ranks() != group.shape.ep)
    throw Error(Exit::kBadInput, plan_path_ + ": expected a plan of " + std::to_string(o.model.num_experts) +
                                     " experts on " + std::to_string(group.shape.ep) + " ranks (ep), found " +
                                     std::to_string(p.num_experts) + " on " + std::to_string(p.num_ranks()));
  return p.placed[layer < 0 ? 0 : position_of(p.layers, layer, plan_path_)];
}

DispatchJob DispatchInputs::job_of(std::unique_ptr<RowSource> source, const LayerPlacement& placed, const BenchOptions& o,
                                   const DispatchGroup& group) const {
  const auto map_for = [&](int rank) {
    return LayerMap::of(placed, o.model.num_experts, group.rank2node, rank, o.ranks.replica_choice);
  };
  DispatchJob job{.source = std::move(source), .map = map_for(0).map};
  if (map_for(0).choice.empty()) return job;
  std::vector<SlotChoice> choice_R;
  for (int r = 0; r < placed.num_ranks(); ++r) choice_R.push_back(map_for(r).choice[0]);
  job.source = std::make_unique<SlotSource>(std::move(job.source), std::move(choice_R), o.model.top_k);
  return job;
}

std::vector<DispatchJob> DispatchInputs::layer_jobs(const BenchOptions& o, const DispatchGroup& group) const {
  std::vector<DispatchJob> jobs;
  const std::vector<int>& layers = trace_->shape.layers;
  if (o.layer >= 0) position_of(layers, o.layer, trace_path_);
  for (std::size_t l = 0; l < layers.size(); ++l) {
    if (o.layer >= 0 && layers[l] != o.layer) continue;
    auto source = std::make_unique<TraceSource>(*trace_, l, group.world_ranks, group.shape.size());
    jobs.push_back(job_of(std::move(source), placed_of(layers[l], o, group), o, group));
    jobs.back().layer = layers[l];
    jobs.back().tokens = trace_->tokens_per_step;
  }
  return jobs;
}

std::vector<DispatchJob> DispatchInputs::workload_jobs(const BenchOptions& o, const DispatchGroup& group) const {
  const LayerPlacement placed = placed_of(o.layer, o, group), home = without_copies(placed, o.model.num_experts);
  if (o.model.max_nodes_per_token > 0 && home != placed)
    throw Error(Exit::kUsage,
                "--max-nodes-per-token: expected a plan with one copy of each expert, found several in " + plan_path_,
                "copies lie on more nodes than the limit looks at");
  const WorkloadShape shape{.num_tokens = o.tokens,
                            .top_k = o.model.top_k,
                            .max_nodes = o.model.max_nodes_per_token,
                            .seed = o.common.seed,
                            .group = group.number,
                            .map = LayerMap::of(home, o.model.num_experts, group.rank2node, 0, {}).map,
                            .rank2node = group.rank2node};
  std::vector<DispatchJob> jobs;
  for (int w = 0; w < kNumWorkloads; ++w) {
    if (o.workload != WorkloadChoice::kAll && static_cast<int>(o.workload) != w) continue;
    auto source = std::make_unique<WorkloadSource>(static_cast<Workload>(w), shape);
    const std::int64_t tokens = tokens_of_group(*source) * (group.shape.size() / group.shape.ep);
    jobs.push_back(job_of(std::move(source), placed, o, group));
    jobs.back().tokens = tokens;
  }
  return jobs;
}

std::vector<DispatchJob> DispatchInputs::jobs(const BenchOptions& o, const DispatchGroup& group) const {
  std::vector<DispatchJob> jobs = trace_ ? layer_jobs(o, group) : workload_jobs(o, group);
  for (const DispatchJob& job : jobs) code_of(o, group, *job.source);
  return jobs;
}

}  // namespace moe
