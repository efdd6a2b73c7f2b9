// Ranks of a mesh as threads of the test, each with its lane and its groups (DESIGN 3: world = replicate x shard x ep, ep
// fastest). Comm calls belong into tasks of the lane. A check that fails must not leave a rank early while others wait for
// it: use EXPECT, or throw, in the body.
#pragma once

#include <omp.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "lib/comm/lane.h"
#include "lib/comm/mesh.h"
#include "lib/comm/thread_comm.h"
#include "lib/parallel/units.h"

namespace moe {

struct TestRank {
  MeshShape shape;
  MeshPlace place;
  std::unique_ptr<Comm> world, dense, expert, replicas, ep;
  Stream lane_stream{1};
  CommLane lane{true};  // last: its tasks end before the groups do

  TestRank(const MeshShape& mesh, std::unique_ptr<Comm> comm) : shape(mesh), world(std::move(comm)) {
    lane.call("split", [this] {
      const int rank = world->rank();
      place = {rank / (shape.shard * shape.ep), rank / shape.ep % shape.shard, rank % shape.ep};
      dense = world->split(place.replicate, rank);
      expert = world->split(place.replicate * shape.ep + place.ep, rank);
      replicas = world->split(place.shard * shape.ep + place.ep, rank);
      ep = world->split(place.replicate * shape.shard + place.shard, rank);
    });
  }

  Env lane_env() { return {lane_stream, cpu_kernels()}; }
  int dense_rank() const { return place.shard * shape.ep + place.ep; }
  // Groups of one rank are left out, as a single process leaves them out.
  UnitComms unit_comms() const {
    return {.dense = shape.shard * shape.ep > 1 ? dense.get() : nullptr,
            .expert = shape.shard > 1 ? expert.get() : nullptr,
            .replicate = shape.replicate > 1 ? replicas.get() : nullptr};
  }
  // Experts go to the ep ranks in the order of `expert_order`, in parts that differ by at most one.
  ParamLayout layout(const std::vector<int>& expert_order, int zero) const {
    const Cut part{place.ep, shape.ep};
    const auto n = static_cast<std::int64_t>(expert_order.size());
    ParamLayout layout;
    for (auto i = part.begin(n); i < part.end(n); ++i)
      layout.layer2experts[0].push_back({expert_order[static_cast<std::size_t>(i)]});
    layout.dense = {dense_rank(), shape.shard * shape.ep};
    layout.expert = {place.shard, shape.shard};
    layout.zero = zero;
    return layout;
  }
};

// Runs body on every rank of the mesh; the first exception of a rank is thrown here.
inline void run_mesh_ranks(const MeshShape& shape, const std::function<void(TestRank&)>& body) {
  run_thread_ranks(shape.size(), [&](std::unique_ptr<Comm> comm) {
    omp_set_num_threads(1);  // of this rank: many ranks share the processors
    TestRank rank(shape, std::move(comm));
    body(rank);
  });
}

}  // namespace moe
