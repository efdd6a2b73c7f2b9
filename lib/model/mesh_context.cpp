#include "lib/model/mesh_context.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "lib/base/error.h"

namespace moe {
namespace {

// Nodes of the ranks of the expert-parallel group, renumbered.
std::vector<int> nodes_of_group(const World& world, const MeshShape& shape, MeshPlace place) {
  std::vector<int> nodes;
  for (place.ep = 0; place.ep < shape.ep; ++place.ep)
    nodes.push_back(world.rank2node()[static_cast<std::size_t>(rank_of(shape, place))]);
  std::map<int, int> seen;
  for (int& node : nodes) node = seen.try_emplace(node, static_cast<int>(seen.size())).first->second;
  return nodes;
}

Comm* if_shared(const std::unique_ptr<Comm>& comm) { return comm && comm->size() > 1 ? comm.get() : nullptr; }

}  // namespace

ParamLayout layout_of(const MeshOptions& o, const MeshPlace& place, int num_experts) {
  ParamLayout layout;
  layout.experts = linear_expert_map(num_experts, o.shape.ep).rank2experts[static_cast<std::size_t>(place.ep)];
  layout.dense = {place.shard * o.shape.ep + place.ep, o.shape.shard * o.shape.ep};
  layout.expert = {place.shard, o.shape.shard};
  layout.zero = o.zero;
  return layout;
}

MeshContext::MeshContext(World& world, const MeshOptions& options, int num_experts, const Kernels& kernels)
    : world_(world),
      options_(options),
      place_(place_of(options.shape, world.rank())),
      experts_(linear_expert_map(num_experts, options.shape.ep)),
      layout_(layout_of(options, place_, num_experts)),
      lane_stream_(1) {
  const std::vector<int> rank2node = nodes_of_group(world, options.shape, place_);
  num_nodes_ = 1 + *std::max_element(rank2node.begin(), rank2node.end());
  for (const int rank : experts_.expert2rank) expert2node_.push_back(rank2node[static_cast<std::size_t>(rank)]);
  lane().call("split", [this] { comms_ = split_mesh(world_.comm(), options_.shape); });
  if (options.shape.ep == 1) return;
  dispatcher_ = std::make_unique<Dispatcher>(*comms_.ep, rank2node, experts_, options.dispatch, lane_stream_, kernels);
}

MeshContext::~MeshContext() = default;

void MeshContext::check_node_limit(const ModelConfig& c) const {
  const int kept = c.max_nodes_per_token;
  if (kept == 0 || kept >= num_nodes_) return;
  if (c.num_groups_kept < c.num_expert_groups)
    throw Error(Exit::kUsage, "--max-nodes-per-token: expected no other limit, found --groups-kept " +
                                  std::to_string(c.num_groups_kept) + " of " + std::to_string(c.num_expert_groups));
  std::vector<int> experts_of(static_cast<std::size_t>(num_nodes_));
  for (const std::int32_t node : expert2node_) ++experts_of[static_cast<std::size_t>(node)];
  std::sort(experts_of.begin(), experts_of.end());
  const int fewest = std::accumulate(experts_of.begin(), experts_of.begin() + kept, 0);
  if (fewest < c.top_k)
    throw Error(Exit::kUsage,
                "--max-nodes-per-token: expected nodes that hold --top-k " + std::to_string(c.top_k) +
                    " experts together, found " + std::to_string(fewest) + " in the smallest " + std::to_string(kept) +
                    " of " + std::to_string(num_nodes_),
                "allow more nodes, or choose fewer experts");
}

UnitComms MeshContext::unit_comms() const {
  return {if_shared(comms_.dense), if_shared(comms_.shard), if_shared(comms_.replicate)};
}

}  // namespace moe
