// The 3-D mesh: world = replicate x shard x ep, ep fastest (DESIGN 3): neighbouring ranks hold different experts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/comm/comm.h"

namespace moe {

struct MeshShape {
  int replicate = 1, shard = 1, ep = 1;
  int size() const { return replicate * shard * ep; }
};
std::string mesh_text(const MeshShape& shape);  // "replicate 1 x shard 2 x ep 4"

// Fills in what is 0 in `wanted`, for num_ranks ranks. Nothing wanted: ep is the largest divisor of num_ranks that divides
// num_experts and is at most ranks_per_node, shard the rest. Otherwise what is missing takes what is left: shard first, then
// ep (as large as divides num_experts), then replicate 1. Error(kUsage) if the product cannot be num_ranks, listing the
// meshes that would work.
MeshShape infer_mesh(int num_ranks, const MeshShape& wanted, int num_experts, int ranks_per_node);

// Place of one rank.
struct MeshPlace {
  int replicate = 0, shard = 0, ep = 0;
};
MeshPlace place_of(const MeshShape& shape, int rank);
int rank_of(const MeshShape& shape, const MeshPlace& place);

// Nodes of consecutive ranks, for --ranks-per-node.
std::vector<int> declared_nodes(int num_ranks, int ranks_per_node);

// The groups of one rank.
struct MeshComms {
  std::unique_ptr<Comm> ep;     // same replicate and shard: exchange of rows
  std::unique_ptr<Comm> shard;  // same replicate and ep: shards of the experts
  std::unique_ptr<Comm>
      dense;  // same replicate, ordered shard-major: shards of dense parameters, rank = shard * ep_size + ep
  std::unique_ptr<Comm> replicate;  // same shard and ep
};
MeshComms split_mesh(Comm& world, const MeshShape& shape);  // collective

}  // namespace moe
