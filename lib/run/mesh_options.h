// Options about ranks: the mesh, what is sharded, how rows travel. Shared by moe-train and moe-bench.
#pragma once

#include <functional>
#include <optional>

#include "lib/base/options.h"
#include "lib/model/mesh_context.h"

namespace moe {

enum class Overlap { kAuto, kOff, kOn };

struct RankOptions {
  int ep = 0, shard = 0, replicate = 0;  // 0: inferred
  std::optional<MeshShape> resumed;      // of the checkpoint: taken if none of them is wanted and the ranks are as many
  std::string plan;        // where experts live: a plan file; none: in linear order; "": as in the checkpoint, else linear
  Placement resumed_plan;  // of the checkpoint; without layers if it has none
  ReplicaChoice replica_choice = ReplicaChoice::kSpread;
  int zero = 3;
  DispatchMode dispatch = DispatchMode::kAuto;
  Overlap overlap = Overlap::kAuto;
  GpuComm gpu_comm = GpuComm::kAuto;
  int ranks_per_node = 0;  // 0: ask MPI
  double watchdog = 600;   // seconds; 0: off
};
void add_rank_options(Options& options, RankOptions& ranks);
void check_rank_options(const Options& options, const RankOptions& ranks);  // Error(kUsage)

// The mesh for this many ranks, and the plan that it follows. In a dry run of one process, the mesh that the options
// describe, whatever its size.
MeshOptions choose_mesh(const RankOptions& ranks, const World& world, const ModelConfig& model, bool dry_run);

// Node and host of each rank.
struct RankHosts {
  std::vector<int> rank2node;
  std::vector<std::string> hosts;
};
// Of the world; in a dry run of one process, of the mesh that the options describe.
RankHosts rank_hosts(const RankOptions& ranks, const World& world, const MeshShape& shape);

// The mesh as a picture: a line per rank with its node, experts and bytes; long ones are shortened in the middle.
std::string mesh_picture(const MeshOptions& mesh, const RankHosts& hosts, int num_experts,
                         const std::function<double(const MeshPlace&)>& bytes_of);

}  // namespace moe
