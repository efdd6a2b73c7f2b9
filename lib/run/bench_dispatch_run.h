// One measurement of `moe-bench dispatch`: rows to experts that hand them back, and home again, all that arrived looked at.
// Not here: which measurements there are (bench_dispatch.cpp), what must arrive (bench_dispatch_check.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lib/comm/mesh.h"
#include "lib/run/bench.h"
#include "lib/run/bench_device.h"
#include "lib/run/bench_dispatch.h"
#include "lib/run/bench_dispatch_check.h"

namespace moe {

// The groups of ranks that exchange rows among themselves, as this rank sees them.
struct DispatchGroup {
  DispatchGroup(World& w, const MeshShape& mesh)
      : world(w), shape(mesh), place(place_of(mesh, w.rank())), number(place.replicate * shape.shard + place.shard) {
    world.lane().call("split", [this] { comm = world.comm().split(number, place.ep); });
    for (MeshPlace p{place.replicate, place.shard, 0}; p.ep < shape.ep; ++p.ep) {
      world_ranks.push_back(rank_of(shape, p));
      rank2node.push_back(world.rank2node()[static_cast<std::size_t>(world_ranks.back())]);
    }
  }

  World& world;
  MeshShape shape;
  MeshPlace place;
  int number = 0;
  std::unique_ptr<Comm> comm;
  std::vector<int> world_ranks, rank2node;  // of each rank of the group
};

// What is sent, and who holds which expert.
struct DispatchJob {
  std::unique_ptr<RowSource> source;
  ExpertMap map;            // of the ranks of the group; where experts have copies, of slots, which the source then names
  int layer = -1;           // of a trace
  std::int64_t tokens = 0;  // of all ranks, mean over repetitions
};

// Error(kUsage) if rows are too short to name their tokens.
RowCode code_of(const BenchOptions& o, const DispatchGroup& group, const RowSource& source);

// Collective. link: among the ranks of the group. budget: seconds; whole periods of the source.
DispatchRow measure_dispatch(const BenchOptions& options, DispatchGroup& group, const DispatchJob& job, DispatchMode mode,
                             DeviceLink& link, double budget);

}  // namespace moe
