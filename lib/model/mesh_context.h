// What a rank needs to run a model together with the others: its place in the mesh, the groups, who holds which expert, the
// exchange of rows. One process is the mesh 1 x 1 x 1, which exchanges nothing.
#pragma once

#include <memory>
#include <string>

#include "kernels/kernels.h"
#include "lib/comm/dispatch.h"
#include "lib/comm/mesh.h"
#include "lib/comm/nccl_comm.h"
#include "lib/comm/world.h"
#include "lib/model/config.h"
#include "lib/parallel/units.h"

namespace moe {

// How rows and parameters of a GPU reach other ranks. kAuto: on the CPU, or not chosen yet (then staged).
enum class GpuComm { kAuto, kNccl, kStaged };
// Messages of memory of `stream`'s device, which is not the CPU, among the ranks of `host`. Collective, a task of the lane;
// `name`: of the group, for messages. host, stream, waits: outlive it.
std::unique_ptr<Comm> make_device_comm(GpuComm way, const std::string& name, Comm& host, Stream& stream, NcclWaits& waits);

struct MeshOptions {
  MeshShape shape;
  int zero = 3;
  DispatchMode dispatch = DispatchMode::kAuto;
  bool overlap = true;  // compute while the lane communicates; false: wait for each exchange at once
  Placement plan;       // of the expert-parallel group; without layers: linear in all of them
  ReplicaChoice replica_choice = ReplicaChoice::kSpread;
  bool halves =
      true;  // with overlap: two halves of a micro-batch in turn, so that one computes while rows of the other travel
  GpuComm gpu_comm = GpuComm::kAuto;
};

// Part of the parameters of the rank at `place`. Inside a rank experts are in ascending order, whatever the plan says.
ParamLayout layout_of(const MeshOptions& options, const MeshPlace& place, int num_experts);

class MeshContext {
 public:
  // A collective call: makes the groups.
  // device: where the model and the rows of its micro-batches are.
  MeshContext(World& world, const MeshOptions& options, int num_experts, const Kernels& kernels,
              const Device& device = cpu_device());
  // Error(kUsage) if some choice of max_nodes_per_token nodes holds fewer than top_k experts, or experts have copies.
  void check_node_limit(const ModelConfig& config) const;
  ~MeshContext();
  MeshContext(const MeshContext&) = delete;
  MeshContext& operator=(const MeshContext&) = delete;

  World& world() const { return world_; }
  CommLane& lane() const { return world_.lane(); }
  const MeshOptions& options() const { return options_; }
  const MeshPlace& place() const { return place_; }
  const LayerPlacement& placed(int layer) const { return of_layer(layer).placed; }
  const ParamLayout& layout() const { return layout_; }
  int num_ranks() const { return options_.shape.size(); }
  // For what tasks of the lane compute.
  Env lane_env() { return {lane_stream_, kernels_}; }
  // For the thread that computes, to copy from and to the device while the lane does nothing: everything that it has put
  // into its stream is done.
  Stream& settled_stream();
  // The stream that computes, or before there is one that of the lane.
  Stream& compute_stream() { return compute_ ? *compute_ : lane_stream_; }
  // What the lane does is in order with this stream of the thread that computes (CommLane::follow); nothing on the CPU.
  void follow(Stream& compute);
  UnitComms unit_comms() const;
  Comm& dense_comm() const { return *comms_.dense; }
  // How the rank at each place of the dense group cuts the model.
  std::vector<ParamLayout> rank_layouts() const;
  Dispatcher* dispatcher() const { return dispatcher_.get(); }  // nullptr: all experts are here
  std::size_t map_of(int layer) const { return layer2map_[layer2map_.size() == 1 ? 0 : static_cast<std::size_t>(layer)]; }
  // Nodes of the expert-parallel group, numbered 0, 1, ... in the order of its ranks. Of an expert with copies the first.
  const std::vector<std::int32_t>& expert2node(int layer) const { return of_layer(layer).expert2node; }
  int num_nodes() const { return num_nodes_; }

 private:
  // Layers whose experts lie alike share one.
  struct LayerExperts {
    LayerPlacement placed;
    std::vector<std::int32_t> expert2node;
  };
  const LayerExperts& of_layer(int layer) const { return maps_[map_of(layer)]; }
  void add_map(const LayerPlacement& placed, const std::vector<int>& rank2node);
  std::unique_ptr<Comm> device_comm(const char* name, Comm& host);

  World& world_;
  MeshOptions options_;
  MeshPlace place_;
  int num_experts_;
  ParamLayout layout_;
  std::vector<LayerExperts> maps_;
  std::vector<std::size_t> layer2map_;  // one entry: all layers alike
  int num_nodes_ = 1;
  const Kernels& kernels_;
  Stream lane_stream_;
  Stream* compute_ = nullptr;  // that the lane follows
  NcclWaits nccl_waits_;
  MeshComms comms_;
  std::unique_ptr<Comm> rows_, dense_rows_, shard_rows_, replicate_rows_;  // of memory of the device, where it is another
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace moe
