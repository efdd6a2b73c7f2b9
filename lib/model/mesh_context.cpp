#include "lib/model/mesh_context.h"

namespace moe {
namespace {

// Nodes of the ranks of the expert-parallel group.
std::vector<int> nodes_of_group(const World& world, const MeshShape& shape, MeshPlace place) {
  std::vector<int> nodes;
  for (place.ep = 0; place.ep < shape.ep; ++place.ep)
    nodes.push_back(world.rank2node()[static_cast<std::size_t>(rank_of(shape, place))]);
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
  lane().call("split", [this] { comms_ = split_mesh(world_.comm(), options_.shape); });
  if (options.shape.ep == 1) return;
  dispatcher_ = std::make_unique<Dispatcher>(*comms_.ep, nodes_of_group(world, options.shape, place_), experts_,
                                             options.dispatch, lane_stream_, kernels);
}

MeshContext::~MeshContext() = default;

UnitComms MeshContext::unit_comms() const {
  return {if_shared(comms_.dense), if_shared(comms_.shard), if_shared(comms_.replicate)};
}

}  // namespace moe
