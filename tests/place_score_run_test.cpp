// moe-place score as a library call: the figures of its JSON against those worked out by hand, windows, and what it refuses.
// Not here: the formulas (place_score_test.cpp).
#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "lib/base/error.h"
#include "lib/io/routing_stats.h"
#include "lib/run/place.h"
#include "lib/run/place_score.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

// A plan of one layer, 4 experts on 2 nodes of a rank: 0 and 3 together. Its load: the first half of the steps even on it,
// then expert 3 takes over.
class PlaceScoreRunTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-place-score-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    write_plan_file(path("plan.h5"), {{4, {2}, {{{{0, 3}, {1, 2}}}}}, {0, 1}, {{0, 0, 0, 0}}, nullptr, json::array()},
                    false);
    RoutingRecorder r(path("routing.h5"), {{2}, 4, 2}, json::array());
    for (std::int64_t s = 0; s < 8; ++s)
      r.add_step(s, s < 4 ? std::vector<std::int64_t>{5, 3, 2, 0} : std::vector<std::int64_t>{3, 1, 1, 5});
    // all pairs of the first half on one node each (0 with 3, 1 with 2) in half of the tokens, else one of each node
    r.add_coactivation(std::vector<std::int64_t>{8, 4, 0, 4, 4, 8, 4, 0, 0, 4, 8, 4, 4, 0, 4, 8});
    r.save();
    inputs_.routing = path("routing.h5");
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string path(const std::string& name) const { return dir_ + "/" + name; }

  json run() {
    PlaceOptions place;
    const Options options = place_options(place);
    CommonOptions common;
    common.json = path("out.json");
    ::testing::internal::CaptureStdout();
    const Exit exit = place_score(path("plan.h5"), inputs_, options_, common, {options, {"moe-place"}});
    text_ = ::testing::internal::GetCapturedStdout();
    EXPECT_EQ(exit, Exit::kOk);
    std::ifstream in(path("out.json"));
    return json::parse(in);
  }
  std::string fault() {
    try {
      run();
    } catch (const Error& e) {
      ::testing::internal::GetCapturedStdout();
      EXPECT_EQ(e.code(), Exit::kUsage) << e.what();
      return e.what();
    }
    return "no error";
  }

  std::string dir_, text_;
  PlaceInputs inputs_;
  PlaceScoreOptions options_;
};

TEST_F(PlaceScoreRunTest, FiguresBesideTheLinearPlan) {
  options_.row_us = 1000;  // 10 tokens of 2 rows: 20 rows a step
  options_.row_bytes = 1000;
  options_.inter_mbit = 0.8;  // 100 KB/s
  options_.tokens_per_step = 10;
  options_.other_ms = 5;
  const json j = run();
  // loads 32 16 12 20: ranks 52 and 28 with the plan, 48 and 32 linear; mean 40. In steps 5 and 5, then 8 and 2 of 10.
  const json& layer = j["layers"][0];
  EXPECT_EQ(layer["layer"], 2);
  EXPECT_DOUBLE_EQ(layer["rank_load"][0], 52);
  EXPECT_DOUBLE_EQ(layer["max_over_mean"], 1.3);
  EXPECT_DOUBLE_EQ(layer["lower_bound"], 1);
  EXPECT_NEAR(layer["gap"], 0.3, 1e-12);
  EXPECT_DOUBLE_EQ(layer["step_max_over_mean"], (1 + 1.6) / 2);
  EXPECT_DOUBLE_EQ(j["linear"]["layers"][0]["max_over_mean"], 1.2);
  // pairs 0-3 and 1-2: one node; 0-1 and 2-3: two. Half of the tokens on both nodes: 1.5 nodes, of which half are another's.
  EXPECT_EQ(j["inter_node_rows_are"], "estimated");
  EXPECT_NEAR(j["inter_node_rows_per_token"], 0.75, 1e-6);
  EXPECT_NEAR(j["linear"]["inter_node_rows_per_token"], 0.75, 1e-6);
  // the slowest rank 20 / 2 x 1.3 rows of 1 ms; the link 10 tokens x 0.375 rows x 1000 bytes at 100 KB/s; 5 ms
  EXPECT_NEAR(j["seconds_per_step"], 13e-3 + 37.5e-3 + 5e-3, 1e-8);
  const double linear_steps = (1.6 + 1.2) / 2;  // 8 and 2, then 4 and 6
  EXPECT_NEAR(j["gain"], (10e-3 * linear_steps + 42.5e-3) / 55.5e-3, 1e-6);
  EXPECT_THAT(text_, HasSubstr("estimated from pairs"));
  EXPECT_THAT(text_, HasSubstr("predicted gain"));
  EXPECT_THAT(text_, HasSubstr("1.300"));
}

TEST_F(PlaceScoreRunTest, WindowsSayWhenThePlanIsStale) {
  options_.windows = 4;
  const json j = run();
  const std::vector<double> plan{1, 1, 1.6, 1.6}, linear{1.6, 1.6, 1.2, 1.2};
  ASSERT_EQ(j["windows"].size(), 4u);
  for (std::size_t w = 0; w < 4; ++w) {
    EXPECT_NEAR(j["windows"][w]["max_over_mean"], plan[w], 1e-12);
    EXPECT_NEAR(j["windows"][w]["linear_max_over_mean"], linear[w], 1e-12);
    EXPECT_EQ(j["windows"][w]["first_step"], 2 * w);
    EXPECT_EQ(j["windows"][w]["last_step"], 2 * w + 1);
  }
  EXPECT_TRUE(j["windows"][0]["fresh_max_over_mean"].is_null());
  EXPECT_NEAR(j["windows"][1]["fresh_max_over_mean"], 1, 1e-12) << "the solver finds 5 and 5";
  EXPECT_NEAR(j["windows"][2]["fresh_max_over_mean"], 1.6, 1e-12) << "which is stale at the change";
  EXPECT_NEAR(j["windows"][3]["fresh_max_over_mean"], 1.2, 1e-12) << "and made anew after it: 6 and 4";
  EXPECT_NEAR(j["windows"][1]["correlation"], 1, 1e-12);
  EXPECT_NEAR(j["windows"][3]["correlation"], 1, 1e-12);
  EXPECT_LT(j["windows"][3]["correlation_with_first"], 0);
  EXPECT_EQ(j["stale_at"], 4);
  EXPECT_THAT(text_, HasSubstr("from step 4 on"));
  options_.stale_percent = 70;
  EXPECT_TRUE(run()["stale_at"].is_null());
  EXPECT_THAT(text_, HasSubstr("never 70.0 % worse"));
}

TEST_F(PlaceScoreRunTest, AnotherTopologyAndTables) {
  inputs_.topology = "rank:2";
  EXPECT_EQ(run()["inter_node_rows_per_token"], 0);
  inputs_.topology.clear();
  inputs_.routing.clear();
  inputs_.loads = path("loads.csv");
  std::ofstream(inputs_.loads) << "layer,a,b,c,d\n2,32,16,12,20\n";
  const json j = run();
  EXPECT_DOUBLE_EQ(j["mean_max_over_mean"], 1.3);
  EXPECT_TRUE(j["inter_node_rows_per_token"].is_null());
  EXPECT_EQ(j["inter_node_rows_are"], "not known");
}

TEST_F(PlaceScoreRunTest, WhatIsRefused) {
  options_.windows = 9;
  EXPECT_THAT(fault(), HasSubstr("at most the 8 recorded steps, found 9"));
  options_.windows = -1;
  EXPECT_THAT(fault(), HasSubstr("from 0"));
  options_.windows = 0;
  options_.inter_mbit = 10;
  EXPECT_THAT(fault(), HasSubstr("expected --row-bytes"));
  options_.inter_mbit = 0;
  options_.row_us = 1;
  EXPECT_THAT(fault(), HasSubstr("expected --tokens-per-step"));
  options_.row_us = 0;
  options_.other_ms = 1;
  EXPECT_THAT(fault(), HasSubstr("expected --row-us or --inter-mbit"));
  options_.other_ms = 0;
  inputs_.topology = "rank:3";
  EXPECT_THAT(fault(), HasSubstr("expected the 2 ranks"));
}

}  // namespace
}  // namespace moe
