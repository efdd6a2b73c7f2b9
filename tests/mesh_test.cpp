// Shapes of the mesh: inference, refusals, places, nodes, groups. Expert maps too.
#include "lib/comm/mesh.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lib/base/error.h"
#include "lib/comm/collectives.h"
#include "lib/comm/expert_map.h"
#include "lib/comm/thread_comm.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string inferred(int num_ranks, MeshShape wanted, int num_experts, int ranks_per_node) {
  return mesh_text(infer_mesh(num_ranks, wanted, num_experts, ranks_per_node));
}

constexpr MeshShape kNothing{0, 0, 0};

TEST(Mesh, NothingWanted) {
  EXPECT_EQ(inferred(1, kNothing, 8, 1), "replicate 1 x shard 1 x ep 1");
  EXPECT_EQ(inferred(8, kNothing, 8, 8), "replicate 1 x shard 1 x ep 8");
  EXPECT_EQ(inferred(8, kNothing, 8, 4), "replicate 1 x shard 2 x ep 4");
  EXPECT_EQ(inferred(8, kNothing, 6, 8), "replicate 1 x shard 4 x ep 2");
  EXPECT_EQ(inferred(7, kNothing, 8, 8), "replicate 1 x shard 7 x ep 1");
  EXPECT_EQ(inferred(7, kNothing, 7, 8), "replicate 1 x shard 1 x ep 7");
  EXPECT_EQ(inferred(16, kNothing, 4, 8), "replicate 1 x shard 4 x ep 4");  // more ranks than experts
  EXPECT_EQ(inferred(4, kNothing, 0, 4), "replicate 1 x shard 4 x ep 1");   // a model without experts
}

TEST(Mesh, WhatIsMissingTakesWhatIsLeft) {
  EXPECT_EQ(inferred(8, {0, 0, 4}, 8, 8), "replicate 1 x shard 2 x ep 4");
  EXPECT_EQ(inferred(8, {0, 2, 0}, 8, 8), "replicate 1 x shard 2 x ep 4");
  EXPECT_EQ(inferred(8, {2, 0, 0}, 8, 8), "replicate 2 x shard 4 x ep 1");
  EXPECT_EQ(inferred(8, {2, 2, 0}, 8, 8), "replicate 2 x shard 2 x ep 2");
  EXPECT_EQ(inferred(8, {0, 2, 2}, 8, 8), "replicate 2 x shard 2 x ep 2");
  EXPECT_EQ(inferred(8, {0, 2, 0}, 6, 8), "replicate 2 x shard 2 x ep 2");
  EXPECT_EQ(inferred(6, {1, 2, 0}, 8, 8), "replicate 1 x shard 2 x ep 3");  // experts that do not divide are allowed
  EXPECT_EQ(inferred(7, {0, 0, 7}, 4, 8), "replicate 1 x shard 1 x ep 7");
  EXPECT_EQ(inferred(64, {2, 4, 8}, 64, 8), "replicate 2 x shard 4 x ep 8");
}

TEST(Mesh, EveryInferredMeshHasAllRanks) {
  for (int n = 1; n <= 64; ++n)
    for (const int experts : {1, 6, 7, 8, 64})
      for (const int per_node : {1, 3, 8}) EXPECT_EQ(infer_mesh(n, kNothing, experts, per_node).size(), n);
}

Error refusal(int num_ranks, MeshShape wanted) {
  try {
    infer_mesh(num_ranks, wanted, 8, 8);
  } catch (const Error& error) {
    return error;
  }
  return Error(Exit::kOk, "");
}

TEST(Mesh, RefusalListsWhatWouldWork) {
  for (const MeshShape wanted :
       {MeshShape{0, 3, 0}, {0, 0, 16}, {2, 2, 4}, {1, 1, 1}, {-1, 0, 0}, {1, 4, 4}, {0, 2, 8}, {3, 0, 2}}) {
    const Error error = refusal(8, wanted);
    EXPECT_EQ(error.code(), Exit::kUsage);
    EXPECT_THAT(error.hint(), HasSubstr("--replicate 1 --shard "));
  }
  const Error error = refusal(8, {0, 2, 3});
  EXPECT_STREQ(error.what(), "--shard 2 --ep 3: expected a product that is, or divides, the 8 ranks of this job");
  EXPECT_EQ(error.hint().find("these would work: --replicate 1 --shard 2 --ep 4; --replicate 2 --shard 2 --ep 2"), 0u)
      << error.hint();
  EXPECT_THAT(error.hint(), HasSubstr("; and 2 more"));
}

TEST(Mesh, PlaceAndRankAreInverse) {
  const MeshShape shape{2, 3, 4};
  for (int r = 0; r < shape.size(); ++r) EXPECT_EQ(rank_of(shape, place_of(shape, r)), r);
  EXPECT_EQ(rank_of(shape, {0, 0, 1}), 1);  // ep is fastest
  EXPECT_EQ(rank_of(shape, {0, 1, 0}), 4);
  EXPECT_EQ(rank_of(shape, {1, 0, 0}), 12);
}

TEST(Mesh, DeclaredNodes) {
  EXPECT_THAT(declared_nodes(5, 2), ElementsAre(0, 0, 1, 1, 2));
  EXPECT_THAT(declared_nodes(3, 8), ElementsAre(0, 0, 0));
}

TEST(Mesh, GroupsHoldTheRightRanksInOrder) {
  for (const MeshShape shape : {MeshShape{1, 1, 1}, {1, 1, 7}, {7, 1, 1}, {2, 2, 2}, {1, 3, 2}, {2, 3, 1}})
    run_thread_ranks(shape.size(), [&](std::unique_ptr<Comm> world) {
      const MeshComms comms = split_mesh(*world, shape);
      const MeshPlace here = place_of(shape, world->rank());
      const auto check = [&](Comm& comm, int size, const std::function<MeshPlace(int)>& place) {
        ASSERT_EQ(comm.size(), size);
        EXPECT_EQ(comm.name_of(comm.rank()), world->name_of(world->rank()));
        for (int i = 0; i < size; ++i) EXPECT_EQ(comm.name_of(i), world->name_of(rank_of(shape, place(i))));
        std::int64_t sum = 1;
        all_reduce_sum(comm, "test", std::span<std::int64_t>(&sum, 1));
        EXPECT_EQ(sum, size);
      };
      check(*comms.ep, shape.ep, [&](int i) { return MeshPlace{here.replicate, here.shard, i}; });
      check(*comms.shard, shape.shard, [&](int i) { return MeshPlace{here.replicate, i, here.ep}; });
      check(*comms.replicate, shape.replicate, [&](int i) { return MeshPlace{i, here.shard, here.ep}; });
      check(*comms.dense, shape.shard * shape.ep, [&](int i) {
        return MeshPlace{here.replicate, i / shape.ep, i % shape.ep};
      });
    });
}

TEST(ExpertMap, EveryExpertHasOnePlace) {
  for (const int experts : {1, 7, 8, 64})
    for (const int ranks : {1, 2, 3, 7, 16}) {
      const ExpertMap map = linear_expert_map(experts, ranks);
      ASSERT_EQ(map.num_experts(), experts);
      ASSERT_EQ(map.num_ranks(), ranks);
      int num = 0;
      for (int r = 0; r < ranks; ++r) {
        const std::vector<int>& here = map.rank2experts[static_cast<std::size_t>(r)];
        EXPECT_GE(static_cast<int>(here.size()), experts / ranks);
        EXPECT_LE(static_cast<int>(here.size()), (experts + ranks - 1) / ranks);
        for (std::size_t i = 0; i < here.size(); ++i, ++num) {
          EXPECT_EQ(here[i], num);
          EXPECT_EQ(map.expert2rank[static_cast<std::size_t>(here[i])], r);
          EXPECT_EQ(map.expert2local[static_cast<std::size_t>(here[i])], static_cast<int>(i));
        }
      }
      EXPECT_EQ(num, experts);
    }
}

}  // namespace
}  // namespace moe
