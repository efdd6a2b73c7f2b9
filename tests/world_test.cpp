// The world over ranks that are threads: nodes, agreement and handshake through the lane; and the group of one rank.
#include "lib/comm/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lib/comm/collectives.h"
#include "lib/comm/mesh.h"
#include "lib/comm/thread_comm.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

void in_world(int num_ranks, const std::function<void(World&)>& body) {
  run_thread_ranks(num_ranks, [&](std::unique_ptr<Comm> comm) {
    World world(std::move(comm), declared_nodes(num_ranks, 3));
    body(world);
  });
}

// The AgreedError that body throws, as text; "" if none.
std::string agreed(const std::function<void()>& body, Exit* code = nullptr, int* reporter = nullptr) {
  try {
    body();
  } catch (const AgreedError& error) {
    if (code) *code = error.code();
    if (reporter) *reporter = error.reporter();
    return error.what() + (error.hint().empty() ? "" : " / " + error.hint());
  }
  return "";
}

TEST(World, OneProcess) {
  World world;
  EXPECT_TRUE(world.alone());
  EXPECT_EQ(world.rank(), 0);
  EXPECT_EQ(world.num_nodes(), 1);
  EXPECT_EQ(world.ranks_per_node(), 1);
  EXPECT_GE(world.default_threads(), 1);
  EXPECT_EQ(world.hosts(), std::vector<std::string>{world.host()});
  EXPECT_FALSE(world.lane().threaded());
  double value = 2;
  world.lane().call("sum", [&] { all_reduce_sum(world.comm(), "sum", std::span<double>(&value, 1)); });
  EXPECT_EQ(value, 2);
  EXPECT_EQ(agreed([&] { world.agree([] { throw Error(Exit::kBadInput, "x", "y"); }); }), "x / y");
}

TEST(World, NodesNeedNotDivideTheRanks) {
  in_world(7, [](World& world) {
    EXPECT_THAT(world.rank2node(), ElementsAre(0, 0, 0, 1, 1, 1, 2));
    EXPECT_EQ(world.num_nodes(), 3);
    EXPECT_EQ(world.ranks_per_node(), 3);
    EXPECT_TRUE(world.lane().threaded());
    EXPECT_GE(world.default_threads(), 1);
  });
}

TEST(World, NodesAreRenumberedByTheirLowestRank) {
  run_thread_ranks(4, [](std::unique_ptr<Comm> comm) {
    World world(std::move(comm), {9, 2, 9, 5});
    EXPECT_THAT(world.rank2node(), ElementsAre(0, 1, 0, 2));
    EXPECT_EQ(world.ranks_per_node(), 2);
  });
}

TEST(World, AgreesOnTheLowestRankThatFailed) {
  in_world(4, [](World& world) {
    EXPECT_EQ(agreed([&] { world.agree([] {}); }), "");
    Exit code = Exit::kOk;
    int reporter = -1;
    const auto fail = [&] {
      if (world.rank() >= 2) throw Error(Exit::kNoInput, "r" + std::to_string(world.rank()) + ": \xff gone", "look");
    };
    const std::string text = agreed([&] { world.agree(fail); }, &code, &reporter);
    EXPECT_THAT(text, HasSubstr("rank 2 (thread): r2: "));
    EXPECT_THAT(text, HasSubstr(" gone / look"));
    EXPECT_EQ(code, Exit::kNoInput);
    EXPECT_EQ(reporter, 2);
    EXPECT_EQ(agreed([&] { world.agree([] {}); }), "");  // the lane goes on
  });
}

TEST(World, WhatAllSayIsNotOneRanksFailure) {
  in_world(3, [](World& world) {
    EXPECT_EQ(agreed([&] { world.agree([] { throw Error(Exit::kUsage, "--lr: no"); }); }), "--lr: no");
  });
}

TEST(World, OtherExceptionsAreNotAgreedOn) {
  World world;
  EXPECT_THROW(world.agree([] { throw 3; }), int);
}

TEST(World, HandshakeNamesTheOddRank) {
  in_world(4, [](World& world) {
    const bool odd = world.rank() == 3;
    EXPECT_EQ(agreed([&] { world.require_same({"version=1", "--lr=3e-3"}); }), "");
    Exit code = Exit::kOk;
    const std::string text = agreed(
        [&] {
          world.require_same(odd ? std::vector<std::string>{"version=1", "--lr=1e-3", "--new=a=b"}
                                 : std::vector<std::string>{"version=1", "--lr=3e-3", "--seed=1"});
        },
        &code);
    EXPECT_THAT(text,
                HasSubstr("rank 3 (thread): expected the options of rank 0, found --lr 1e-3 instead of 3e-3, no --seed, "
                          "--new a=b"));
    EXPECT_EQ(code, Exit::kUsage);
  });
}

TEST(World, HandshakeNamesFewOfMany) {
  in_world(8, [](World& world) {
    const std::string text = agreed([&] { world.require_same({"version=" + std::to_string(world.rank())}); });
    EXPECT_THAT(text, HasSubstr("rank 4 (thread): "));
    EXPECT_THAT(text, HasSubstr("and 3 ranks more"));
    EXPECT_THAT(text, ::testing::Not(HasSubstr("rank 5")));
  });
}

}  // namespace
}  // namespace moe
