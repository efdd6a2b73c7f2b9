#include "lib/comm/mesh.h"

#include <algorithm>

#include "lib/base/error.h"

namespace moe {
namespace {

constexpr std::size_t kMostListed = 8;

// The largest divisor of `of` that divides num_experts and is at most `limit`; 1 for a model without experts.
int best_ep(int of, int num_experts, int limit) {
  for (int d = std::min(of, limit); d > 1; --d)
    if (of % d == 0 && num_experts > 0 && num_experts % d == 0) return d;
  return 1;
}

std::string option_text(const MeshShape& shape) {
  return "--replicate " + std::to_string(shape.replicate) + " --shard " + std::to_string(shape.shard) + " --ep " +
         std::to_string(shape.ep);
}

// What was asked for, for messages: "--shard 3 --ep 2".
std::string wanted_text(const MeshShape& wanted) {
  std::string text;
  const std::pair<const char*, int> kNamed[] = {
      {"--replicate", wanted.replicate}, {"--shard", wanted.shard}, {"--ep", wanted.ep}};
  for (const auto& [name, value] : kNamed)
    if (value != 0) text += (text.empty() ? "" : " ") + std::string(name) + " " + std::to_string(value);
  return text;
}

int num_kept(const MeshShape& shape, const MeshShape& wanted) {
  return (shape.replicate == wanted.replicate) + (shape.shard == wanted.shard) + (shape.ep == wanted.ep);
}

// All meshes of num_ranks ranks whose experts are shared out evenly, those nearest to what was wanted first.
std::vector<MeshShape> meshes_of(int num_ranks, const MeshShape& wanted, int num_experts) {
  std::vector<MeshShape> meshes;
  for (int ep = num_ranks; ep >= 1; --ep)
    for (int shard = num_ranks / ep; shard >= 1; --shard)
      if (num_ranks % (ep * shard) == 0 && best_ep(ep, num_experts, ep) == ep)
        meshes.push_back({num_ranks / (ep * shard), shard, ep});
  std::stable_sort(meshes.begin(), meshes.end(),
                   [&](const MeshShape& a, const MeshShape& b) { return num_kept(a, wanted) > num_kept(b, wanted); });
  return meshes;
}

[[noreturn]] void refuse(int num_ranks, const MeshShape& wanted, int num_experts) {
  const std::vector<MeshShape> meshes = meshes_of(num_ranks, wanted, num_experts);
  std::string list;
  for (std::size_t i = 0; i < std::min(meshes.size(), kMostListed); ++i)
    list += (i == 0 ? "" : "; ") + option_text(meshes[i]);
  if (meshes.size() > kMostListed) list += "; and " + std::to_string(meshes.size() - kMostListed) + " more";
  throw Error(Exit::kUsage,
              wanted_text(wanted) + ": expected a product that is, or divides, the " + std::to_string(num_ranks) +
                  (num_ranks == 1 ? " rank" : " ranks") + " of this job",
              "these would work: " + list);
}

}  // namespace

std::string mesh_text(const MeshShape& shape) {
  return "replicate " + std::to_string(shape.replicate) + " x shard " + std::to_string(shape.shard) + " x ep " +
         std::to_string(shape.ep);
}

MeshShape infer_mesh(int num_ranks, const MeshShape& wanted, int num_experts, int ranks_per_node) {
  if (wanted.replicate < 0 || wanted.shard < 0 || wanted.ep < 0) refuse(num_ranks, wanted, num_experts);
  MeshShape shape = wanted;
  if (wanted_text(wanted).empty()) shape.ep = best_ep(num_ranks, num_experts, std::max(ranks_per_node, 1));
  int left = num_ranks;
  for (const int size : {shape.replicate, shape.shard, shape.ep}) {
    if (size != 0 && left % size != 0) refuse(num_ranks, wanted, num_experts);
    if (size != 0) left /= size;
  }
  if (shape.shard == 0) {
    shape.shard = left;
    left = 1;
  }
  if (shape.ep == 0) {  // with the replicas chosen there is no choice: uneven experts are allowed
    shape.ep = shape.replicate == 0 ? best_ep(left, num_experts, left) : left;
    left /= shape.ep;
  }
  if (shape.replicate == 0) {
    shape.replicate = left;
    left = 1;
  }
  if (left != 1) refuse(num_ranks, wanted, num_experts);
  return shape;
}

MeshPlace place_of(const MeshShape& shape, int rank) {
  return {rank / (shape.shard * shape.ep), rank / shape.ep % shape.shard, rank % shape.ep};
}

int rank_of(const MeshShape& shape, const MeshPlace& place) {
  return (place.replicate * shape.shard + place.shard) * shape.ep + place.ep;
}

std::vector<int> declared_nodes(int num_ranks, int ranks_per_node) {
  std::vector<int> rank2node(static_cast<std::size_t>(num_ranks));
  for (int r = 0; r < num_ranks; ++r) rank2node[static_cast<std::size_t>(r)] = r / std::max(ranks_per_node, 1);
  return rank2node;
}

MeshComms split_mesh(Comm& world, const MeshShape& shape) {
  const MeshPlace place = place_of(shape, world.rank());
  const int in_dense = place.shard * shape.ep + place.ep;
  MeshComms comms;
  comms.ep = world.split(place.replicate * shape.shard + place.shard, place.ep);
  comms.shard = world.split(place.replicate * shape.ep + place.ep, place.shard);
  comms.dense = world.split(place.replicate, in_dense);
  comms.replicate = world.split(in_dense, place.replicate);
  return comms;
}

}  // namespace moe
