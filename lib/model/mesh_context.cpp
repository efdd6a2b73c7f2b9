#include "lib/model/mesh_context.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "lib/base/error.h"
#include "lib/comm/staged_comm.h"

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

LayerPlacement in_order(LayerPlacement placed) {
  for (auto& experts : placed.rank2experts) std::sort(experts.begin(), experts.end());
  return placed;
}

Comm* if_shared(const std::unique_ptr<Comm>& comm) { return comm && comm->size() > 1 ? comm.get() : nullptr; }

}  // namespace

namespace {

// The experts of rank `ep`; a copy is one that a rank before has.
std::vector<LocalExpert> local_experts(const LayerPlacement& placed, int ep) {
  std::vector<LocalExpert> mine;
  for (const int id : placed.rank2experts[static_cast<std::size_t>(ep)]) {
    const auto before = placed.rank2experts.begin() + ep;
    mine.push_back({id, std::any_of(placed.rank2experts.begin(), before, [id](const auto& experts) {
                      return std::find(experts.begin(), experts.end(), id) != experts.end();
                    })});
  }
  std::sort(mine.begin(), mine.end(), [](const LocalExpert& a, const LocalExpert& b) { return a.id < b.id; });
  return mine;
}

}  // namespace

ParamLayout layout_of(const MeshOptions& o, const MeshPlace& place, int num_experts) {
  ParamLayout layout;
  if (o.plan.layers.empty())
    layout.layer2experts = {local_experts(linear_layer(num_experts, o.shape.ep), place.ep)};
  else
    layout.layer2experts.resize(std::max<std::size_t>(2, static_cast<std::size_t>(o.plan.layers.back()) + 1));
  for (std::size_t i = 0; i < o.plan.layers.size(); ++i)
    layout.layer2experts[static_cast<std::size_t>(o.plan.layers[i])] = local_experts(o.plan.placed[i], place.ep);
  layout.dense = {place.shard * o.shape.ep + place.ep, o.shape.shard * o.shape.ep};
  layout.expert = {place.shard, o.shape.shard};
  layout.zero = o.zero;
  return layout;
}

std::unique_ptr<Comm> make_device_comm(GpuComm way, const std::string& name, Comm& host, Stream& stream, NcclWaits& waits) {
  return way == GpuComm::kNccl ? make_nccl_comm(name, host, stream, waits) : make_staged_comm(host, stream);
}

MeshContext::MeshContext(World& world, const MeshOptions& options, int num_experts, const Kernels& kernels,
                         const Device& device)
    : world_(world),
      options_(options),
      place_(place_of(options.shape, world.rank())),
      num_experts_(num_experts),
      layout_(layout_of(options, place_, num_experts)),
      kernels_(kernels),
      lane_stream_(device, 1),
      nccl_waits_{world.watchdog(), world.rank()} {
  const std::vector<int> rank2node = nodes_of_group(world, options.shape, place_);
  num_nodes_ = 1 + *std::max_element(rank2node.begin(), rank2node.end());
  if (options.plan.layers.empty()) {
    add_map(linear_layer(num_experts, options.shape.ep), rank2node);
    layer2map_ = {0};
  } else {
    layer2map_.resize(layout_.layer2experts.size());
    for (std::size_t i = 0; i < options.plan.layers.size(); ++i) {
      const LayerPlacement placed = in_order(options.plan.placed[i]);
      const auto known = std::find_if(maps_.begin(), maps_.end(), [&](const LayerExperts& m) { return m.placed == placed; });
      layer2map_[static_cast<std::size_t>(options.plan.layers[i])] = static_cast<std::size_t>(known - maps_.begin());
      if (known == maps_.end()) add_map(placed, rank2node);
    }
  }
  lane().call("split", [this] {
    comms_ = split_mesh(world_.comm(), options_.shape);
    if (lane_stream_.is_cpu()) return;
    rows_ = device_comm("ep", *comms_.ep);
    dense_rows_ = device_comm("dense", *comms_.dense);
    shard_rows_ = device_comm("shard", *comms_.shard);
    replicate_rows_ = device_comm("replicate", *comms_.replicate);
  });
  if (options.shape.ep == 1) return;
  std::vector<LayerMap> maps;
  for (const LayerExperts& m : maps_)
    maps.push_back(LayerMap::of(m.placed, num_experts, rank2node, place_.ep, options.replica_choice));
  dispatcher_ = std::make_unique<Dispatcher>(*comms_.ep, rows_ ? *rows_ : *comms_.ep, rank2node, maps, options.dispatch,
                                             lane_stream_, kernels);
}

std::unique_ptr<Comm> MeshContext::device_comm(const char* name, Comm& host) {
  return make_device_comm(options_.gpu_comm, name, host, lane_stream_, nccl_waits_);
}

void MeshContext::add_map(const LayerPlacement& placed, const std::vector<int>& rank2node) {
  maps_.push_back({placed, std::vector<std::int32_t>(static_cast<std::size_t>(num_experts_), -1)});
  for (std::size_t r = 0; r < placed.rank2experts.size(); ++r)
    for (const int e : placed.rank2experts[r])
      if (std::int32_t& node = maps_.back().expert2node[static_cast<std::size_t>(e)]; node < 0) node = rank2node[r];
}

std::vector<ParamLayout> MeshContext::rank_layouts() const {
  std::vector<ParamLayout> layouts;
  MeshPlace place = place_;
  for (place.shard = 0; place.shard < options_.shape.shard; ++place.shard)
    for (place.ep = 0; place.ep < options_.shape.ep; ++place.ep) layouts.push_back(layout_of(options_, place, num_experts_));
  return layouts;
}

void MeshContext::follow(Stream& compute) {
  if (compute.is_cpu()) return;
  compute_ = &compute;
  lane().follow(&compute, &lane_stream_);
}

Stream& MeshContext::settled_stream() {
  if (compute_) compute_->synchronize();
  return lane_stream_;
}

MeshContext::~MeshContext() {
  if (lane().followed_on() == &lane_stream_) lane().follow(nullptr, nullptr);
}

void MeshContext::check_node_limit(const ModelConfig& c) const {
  const int kept = c.max_nodes_per_token;
  if (kept == 0 || kept >= num_nodes_) return;
  if (c.num_groups_kept < c.num_expert_groups)
    throw Error(Exit::kUsage, "--max-nodes-per-token: expected no other limit, found --groups-kept " +
                                  std::to_string(c.num_groups_kept) + " of " + std::to_string(c.num_expert_groups));
  if (options_.plan.has_replicas())
    throw Error(Exit::kUsage, "--max-nodes-per-token: expected a plan without copies, found copies of experts",
                "the limit is by the node that an expert is on");
  for (const LayerExperts& m : maps_) {
    std::vector<int> experts_of(static_cast<std::size_t>(num_nodes_));
    for (const std::int32_t node : m.expert2node) ++experts_of[static_cast<std::size_t>(node)];
    std::sort(experts_of.begin(), experts_of.end());
    const int fewest = std::accumulate(experts_of.begin(), experts_of.begin() + kept, 0);
    if (fewest < c.top_k)
      throw Error(Exit::kUsage,
                  "--max-nodes-per-token: expected nodes that hold --top-k " + std::to_string(c.top_k) +
                      " experts together, found " + std::to_string(fewest) + " in the smallest " + std::to_string(kept) +
                      " of " + std::to_string(num_nodes_),
                  "allow more nodes, or choose fewer experts");
  }
}

UnitComms MeshContext::unit_comms() const {
  const auto of = [](const std::unique_ptr<Comm>& rows, const std::unique_ptr<Comm>& comm) {
    return if_shared(rows ? rows : comm);
  };
  return {of(dense_rows_, comms_.dense), of(shard_rows_, comms_.shard), of(replicate_rows_, comms_.replicate),
          options_.plan.has_replicas() ? rank_layouts() : std::vector<ParamLayout>{}};
}

}  // namespace moe
