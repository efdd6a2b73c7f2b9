// Loads from routing statistics, traces and tables: told apart by content, windows of steps, even samples, and faults that
// name their line and column. Not here: damage of HDF5 files (fuzz_readers_test.cpp).
#include "lib/run/place_input.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "lib/base/error.h"
#include "lib/io/h5.h"
#include "lib/io/router_trace.h"
#include "lib/io/routing_stats.h"
#include "lib/run/place_loads_csv.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PlaceInputTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-place-input-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string path(const std::string& name) const { return dir_ + "/" + name; }

  // Statistics of 4 tokens, top-2, in steps 1, 5 and 9 of layers 1 and 3.
  void write_statistics(const std::string& name, bool with_pairs) const {
    RoutingRecorder r(path(name), {{1, 3}, 3, 2}, nlohmann::json::array());
    const std::vector<std::int64_t> even{4, 0, 4, 4, 4, 0}, other{2, 3, 3, 8, 0, 0};
    r.add_step(1, even), r.add_step(5, other), r.add_step(9, other);
    if (with_pairs) r.add_coactivation(std::vector<std::int64_t>{4, 0, 4, 0, 0, 0, 4, 0, 4, 4, 4, 0, 4, 4, 0, 0, 0, 0});
    r.save();
  }
  std::string dir_;
};

std::string fault_of(const std::function<void()>& action, Exit code) {
  try {
    action();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
  return "no error";
}

TEST_F(PlaceInputTest, RoutingStatistics) {
  write_statistics("a.csv", true);  // a name says nothing
  const RecordedLoads recorded = open_loads(path("a.csv"));
  EXPECT_THAT(recorded.step_S, ElementsAre(1, 5, 9));
  const Loads all = read_loads(path("a.csv"));
  EXPECT_EQ(all.num_experts, 3);
  EXPECT_EQ(all.top_k, 2);
  EXPECT_THAT(all.layers, ElementsAre(1, 3));
  ASSERT_EQ(all.of_layer.size(), 2u);
  EXPECT_THAT(all.of_layer[0].load_E, ElementsAre(8, 6, 10));
  EXPECT_THAT(all.of_layer[1].load_E, ElementsAre(20, 4, 0));
  EXPECT_EQ(all.of_layer[0].num_tokens, 12);
  EXPECT_THAT(all.of_layer[1].step_load_SE, ElementsAre(4, 4, 0, 8, 0, 0, 8, 0, 0));
  EXPECT_THAT(all.of_layer[0].coactivation_EE, ElementsAre(4, 0, 4, 0, 0, 0, 4, 0, 4));
  EXPECT_THAT(all.of_layer[0].sample_TK, IsEmpty());
  EXPECT_THAT(recorded.of(2, 5).of_layer[0].load_E, ElementsAre(2, 3, 3));
  EXPECT_THAT(recorded.of(2, 4).of_layer[0].load_E, ElementsAre(0, 0, 0));
  EXPECT_THAT(recorded.of(9, 1).of_layer[0].load_E, ElementsAre(0, 0, 0));
  write_statistics("b.h5", false);
  EXPECT_THAT(read_loads(path("b.h5")).of_layer[0].coactivation_EE, IsEmpty()) << "nothing was added up yet";
}

TEST_F(PlaceInputTest, Trace) {
  RouterTraceWriter w(path("trace"), {{2}, 4, 2}, 3, 0, false);
  w.add_step(10, std::vector<std::int16_t>{0, 1, 2, 1, 3, -1});
  w.add_step(11, std::vector<std::int16_t>{1, 0, 1, 3, 1, 2});
  w.finish(nlohmann::json::array());
  const RecordedLoads recorded = open_loads(path("trace"));
  EXPECT_THAT(recorded.step_S, ElementsAre(10, 11));
  const LayerLoads all = recorded.of(0, INT64_MAX).of_layer[0], first = recorded.of(10, 10).of_layer[0];
  EXPECT_THAT(all.load_E, ElementsAre(2, 5, 2, 2));
  EXPECT_EQ(all.num_tokens, 6);
  EXPECT_THAT(all.sample_TK, ElementsAre(0, 1, 2, 1, 3, -1, 1, 0, 1, 3, 1, 2));
  EXPECT_THAT(all.coactivation_EE, ElementsAre(2, 2, 0, 0, 2, 5, 2, 1, 0, 2, 2, 0, 0, 1, 0, 2));
  EXPECT_THAT(all.step_load_SE, ElementsAre(1, 2, 1, 1, 1, 3, 1, 1));
  EXPECT_THAT(first.load_E, ElementsAre(1, 2, 1, 1));
  EXPECT_THAT(first.sample_TK, ElementsAre(0, 1, 2, 1, 3, -1));
}

// 130000 tokens of which one in 1.3 is kept: those of every part of the trace, and the totals are not of the sample.
TEST_F(PlaceInputTest, LongTracesAreSampledEvenly) {
  constexpr int kTokens = 6500, kSteps = 20;
  RouterTraceWriter w(path("trace"), {{0}, 20, 1}, kTokens, 0, false);
  for (int s = 0; s < kSteps; ++s) w.add_step(s, std::vector<std::int16_t>(kTokens, static_cast<std::int16_t>(s)));
  w.finish(nlohmann::json::array());
  const LayerLoads layer = read_loads(path("trace")).of_layer[0];
  EXPECT_EQ(layer.sample_TK.size(), 100000u);
  EXPECT_EQ(layer.num_tokens, 130000);
  for (int e = 0; e < kSteps; ++e) {
    EXPECT_EQ(layer.load_E[static_cast<std::size_t>(e)], kTokens);
    EXPECT_NEAR(static_cast<double>(std::count(layer.sample_TK.begin(), layer.sample_TK.end(), e)), 5000, 1);
    EXPECT_NEAR(layer.coactivation_EE[static_cast<std::size_t>(e * 21)], kTokens, 2);
  }
}

TEST_F(PlaceInputTest, Tables) {
  const Loads plain = parse_loads_csv("1,2.5,3\n# a remark\n\n 0 , 1e3,0\r\n", "x");
  EXPECT_THAT(plain.layers, ElementsAre(0, 1));
  EXPECT_EQ(plain.num_experts, 3);
  EXPECT_EQ(plain.top_k, 0);
  EXPECT_THAT(plain.of_layer[0].load_E, ElementsAre(1, 2.5, 3));
  EXPECT_THAT(plain.of_layer[1].load_E, ElementsAre(0, 1000, 0));
  EXPECT_THAT(parse_loads_csv("a,b\n1,2", "x").of_layer[0].load_E, ElementsAre(1, 2));
  const Loads named = parse_loads_csv("layer,e0,e1\n3,1,2\n7,3,4\n", "x");
  EXPECT_THAT(named.layers, ElementsAre(3, 7));
  EXPECT_THAT(named.of_layer[1].load_E, ElementsAre(3, 4));
  std::ofstream(path("t.h5")) << "5,6\n";
  EXPECT_THAT(read_loads(path("t.h5")).of_layer[0].load_E, ElementsAre(5, 6));
  EXPECT_THAT(open_loads(path("t.h5")).step_S, IsEmpty());
}

TEST_F(PlaceInputTest, FaultsOfTablesNameLineAndColumn) {
  const std::vector<std::pair<std::string, std::string>> faults = {
      {"", "found none"},
      {"a,b\n", "found none"},
      {"layer\n1\n", "a column per expert"},
      {"1,2\n1,x\n", "t.csv: line 2, column 2: expected a number from 0, found 'x'"},
      {"1,2\n\n1,-2\n", "line 3, column 2: expected a number from 0, found '-2'"},
      {"1,nan\n", "line 1, column 2"},
      {"1,inf\n", "line 1, column 2"},
      {"1,2x\n", "found '2x'"},
      {"1,,3\n", "line 1, column 2: expected a number from 0, found ''"},
      {"1,2,\n", "line 1, column 3"},
      {"1,2\n1,2,3\n", "line 2: expected 2 columns as in line 1, found 3"},
      {"a,b\n1\n", "line 2: expected 2 columns as in line 1, found 1"},
      {"1,b\n1,2\n", "line 1, column 2"},
      {"layer,a\n3,1\n3,1\n", "line 3, column 1: expected a layer from 4"},
      {"layer,a\n0.5,1\n", "line 2, column 1: expected a layer from 0"},
  };
  for (const auto& [text, what] : faults)
    EXPECT_THAT(fault_of([&] { parse_loads_csv(text, "t.csv"); }, Exit::kBadInput), HasSubstr(what)) << text;
}

TEST_F(PlaceInputTest, WhatIsRefused) {
  EXPECT_THAT(fault_of([&] { read_loads(path("none")); }, Exit::kNoInput), HasSubstr("none"));
  H5Writer(path("other"), "moe-other", 1).finish();
  EXPECT_EQ(h5_kind(path("other")), "moe-other");
  EXPECT_THAT(fault_of([&] { read_loads(path("other")); }, Exit::kBadInput), HasSubstr("found a file of kind 'moe-other'"));
  PlaceInputs inputs;
  EXPECT_THAT(fault_of([&] { read_loads(inputs); }, Exit::kUsage), HasSubstr("found none"));
  inputs.routing = inputs.loads = "x";
  EXPECT_THAT(fault_of([&] { read_loads(inputs); }, Exit::kUsage), HasSubstr("found both"));
}

TEST_F(PlaceInputTest, PlansAndLoadsOfOneModel) {
  const Loads loads = parse_loads_csv("layer,a,b\n1,1,2\n3,1,2\n", "x");
  PlanFile plan;
  plan.placement = linear_placement(loads.layers, 2, 2);
  plan.rank2node = {0, 1};
  EXPECT_NO_THROW(need_same_model(plan.placement, "plan", loads));
  plan.placement.layers = {1, 2};
  EXPECT_THAT(fault_of([&] { need_same_model(plan.placement, "plan", loads); }, Exit::kBadInput),
              HasSubstr("2 experts in layers 1,3, found 2 experts in layers 1-2"));
  PlaceInputs inputs;
  EXPECT_EQ(plan_topology(plan, "plan", inputs), parse_topology("node:2 rank:1"));
  inputs.topology = "rank:2";
  EXPECT_EQ(plan_topology(plan, "plan", inputs), parse_topology("rank:2"));
  inputs.topology = "rank:3";
  EXPECT_THAT(fault_of([&] { plan_topology(plan, "plan", inputs); }, Exit::kUsage), HasSubstr("2 ranks of plan, found 3"));
}

}  // namespace
}  // namespace moe
