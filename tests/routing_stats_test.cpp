// Routing statistics: what is recorded is read; a resumed run drops later rows; other models and broken sums are refused.
#include "lib/io/routing_stats.h"

#include <gmock/gmock.h>

#include <filesystem>

#include "lib/base/error.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using Counts = std::vector<std::int64_t>;

class RoutingStatsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-routing-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    path_ = dir_ + "/routing.h5";
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string dir_, path_;
  RoutingShape shape_{{1, 3}, 3, 2};
  // 4 tokens, top-2: one expert empty in layer 1, all tokens to the same two in layer 3
  Counts even_{4, 0, 4, 4, 4, 0}, other_{2, 3, 3, 8, 0, 0};
  Counts pairs_{4, 0, 4, 0, 0, 0, 4, 0, 4, 4, 4, 0, 4, 4, 0, 0, 0, 0};
};

template <class Action>
Exit code_of(Action action) {
  try {
    action();
    return Exit::kOk;
  } catch (const Error& e) {
    return e.code();
  }
}

TEST_F(RoutingStatsTest, RoundTrip) {
  RoutingRecorder r(path_, shape_, nlohmann::json::array());
  r.save();  // no row yet
  EXPECT_TRUE(read_routing_stats(path_).step_S.empty());
  r.add_step(1, even_);
  r.add_step(5, other_);
  r.add_coactivation(pairs_);
  r.add_coactivation(pairs_);
  r.save();
  const RoutingStats s = read_routing_stats(path_);
  EXPECT_EQ(s.shape.layers, shape_.layers);
  EXPECT_EQ(s.shape.num_experts, 3);
  EXPECT_EQ(s.shape.top_k, 2);
  EXPECT_EQ(s.step_S, (Counts{1, 5}));
  Counts both = even_, doubled = pairs_;
  both.insert(both.end(), other_.begin(), other_.end());
  for (auto& p : doubled) p *= 2;
  EXPECT_EQ(s.counts_SLE, both);
  EXPECT_EQ(s.coactivation_LEE, doubled);
}

TEST_F(RoutingStatsTest, ResumeDropsLaterRows) {
  RoutingRecorder first(path_, shape_, nullptr);
  for (std::int64_t step : {1, 2, 3}) first.add_step(step, even_);
  first.add_coactivation(pairs_);
  first.save();
  RoutingRecorder all(path_, shape_, nullptr);
  all.resume(3);
  all.add_step(4, other_);
  all.save();
  EXPECT_EQ(read_routing_stats(path_).step_S, (Counts{1, 2, 3, 4}));
  EXPECT_EQ(read_routing_stats(path_).coactivation_LEE, pairs_);
  RoutingRecorder some(path_, shape_, nullptr);
  some.resume(2);
  some.add_step(3, other_);
  some.save();
  EXPECT_EQ(read_routing_stats(path_).step_S, (Counts{1, 2, 3}));
  EXPECT_EQ(read_routing_stats(path_).coactivation_LEE, Counts(18, 0)) << "a sum that holds dropped steps is not kept";
}

TEST_F(RoutingStatsTest, WhatIsRefused) {
  EXPECT_EQ(code_of([&] { read_routing_stats(path_); }), Exit::kNoInput);
  RoutingRecorder r(path_, shape_, nullptr);
  EXPECT_NO_THROW(r.resume(10)) << "nothing to take over";
  r.add_step(1, even_);
  EXPECT_EQ(code_of([&] { r.add_step(1, even_); }), Exit::kInternal);
  EXPECT_EQ(code_of([&] { r.add_step(2, Counts(5)); }), Exit::kInternal);
  r.save();
  RoutingRecorder foreign(path_, {{1, 3}, 3, 1}, nullptr);
  EXPECT_EQ(code_of([&] { foreign.resume(1); }), Exit::kBadInput);
  for (const Counts& wrong : {Counts{4, 0, 4, 4, 4, 2}, Counts{4, 0, 3, 4, 3, 0}, Counts{9, -1, 0, 4, 4, 0}}) {
    RoutingRecorder bad(path_, shape_, nullptr);
    bad.add_step(1, wrong);
    bad.save();
    EXPECT_EQ(code_of([&] { read_routing_stats(path_); }), Exit::kBadInput);
  }
  RoutingRecorder skew(path_, shape_, nullptr);
  Counts lopsided = pairs_;
  lopsided[1] = 7;
  skew.add_coactivation(lopsided);
  skew.save();
  EXPECT_EQ(code_of([&] { read_routing_stats(path_); }), Exit::kBadInput);
}

}  // namespace
}  // namespace moe
