// What a rank needs to run a model together with the others: its place in the mesh, the groups, who holds which expert, the
// exchange of rows. One process is the mesh 1 x 1 x 1, which exchanges nothing.
#pragma once

#include <memory>

#include "kernels/kernels.h"
#include "lib/comm/dispatch.h"
#include "lib/comm/mesh.h"
#include "lib/comm/world.h"
#include "lib/model/config.h"
#include "lib/parallel/units.h"

namespace moe {

struct MeshOptions {
  MeshShape shape;
  int zero = 3;
  DispatchMode dispatch = DispatchMode::kAuto;
  bool overlap = true;  // compute while the lane communicates; false: wait for each exchange at once
  bool halves = true;   // with overlap: two halves of a micro-batch in turn, so that one computes while rows of the other travel
};

// Part of the parameters of the rank at `place`, experts in linear order.
ParamLayout layout_of(const MeshOptions& options, const MeshPlace& place, int num_experts);

class MeshContext {
 public:
  // A collective call: makes the groups.
  MeshContext(World& world, const MeshOptions& options, int num_experts, const Kernels& kernels);
  // Error(kUsage) if some choice of max_nodes_per_token nodes holds fewer than top_k experts.
  void check_node_limit(const ModelConfig& config) const;
  ~MeshContext();
  MeshContext(const MeshContext&) = delete;
  MeshContext& operator=(const MeshContext&) = delete;

  World& world() const { return world_; }
  CommLane& lane() const { return world_.lane(); }
  const MeshOptions& options() const { return options_; }
  const MeshPlace& place() const { return place_; }
  const ExpertMap& experts() const { return experts_; }
  const ParamLayout& layout() const { return layout_; }
  int num_ranks() const { return options_.shape.size(); }
  UnitComms unit_comms() const;
  Comm& dense_comm() const { return *comms_.dense; }
  Dispatcher* dispatcher() const { return dispatcher_.get(); }  // nullptr: all experts are here
  // Nodes of the expert-parallel group, numbered 0, 1, ... in the order of its ranks.
  const std::vector<std::int32_t>& expert2node() const { return expert2node_; }
  int num_nodes() const { return num_nodes_; }

 private:
  World& world_;
  MeshOptions options_;
  MeshPlace place_;
  ExpertMap experts_;
  ParamLayout layout_;
  std::vector<std::int32_t> expert2node_;
  int num_nodes_ = 1;
  MeshComms comms_;
  Stream lane_stream_;
  std::unique_ptr<Dispatcher> dispatcher_;
};

}  // namespace moe
