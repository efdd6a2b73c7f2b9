// moe-place show on small plans with figures that are known: the words, the heat maps, the pictures as well-formed XML.
// Not here: files and options (place_show_test.sh), the scores (place_score_test.cpp), whether it is pretty.
#include "lib/run/place_show.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "lib/run/svg.h"
#include "tests/xml_fault.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// Two layers of four experts on two nodes of two ranks; expert 0 of layer 3 has two copies and one of them is pinned.
ShowSubject small_plan() {
  ShowSubject s{.path = "plan.h5", .kind = "plan"};
  s.plan.placement = {4, {3, 7}, {{{{0, 1}, {2}, {0, 3}, {}}}, {{{0}, {1}, {2}, {3}}}}};
  s.plan.rank2node = {0, 0, 1, 1};
  s.plan.pinned_LS = {{1, 0, 0, 0, 0}, {0, 0, 0, 0}};
  s.topology.rank2node = s.plan.rank2node;
  return s;
}

ShowSubject small_loaded_plan() {
  ShowSubject s = small_plan();
  s.loads = {4, 0, {3, 7}, {{.load_E = {8, 2, 4, 2}}, {.load_E = {1, 1, 1, 0}}}};
  s.loads.of_layer[0].num_tokens = 1234567;
  return s;
}

ShowSubject routing(int num_layers, int num_experts) {
  ShowSubject s{.path = "routing.h5", .kind = "routing"};
  s.loads.num_experts = num_experts;
  for (int l = 0; l < num_layers; ++l) {
    s.loads.layers.push_back(l);
    LayerLoads layer;
    for (int e = 0; e < num_experts; ++e) layer.load_E.push_back((l * 31 + e * 17) % 101);
    s.loads.of_layer.push_back(layer);
  }
  return s;
}

ShowSubject large_plan(int num_layers, int num_experts, int num_nodes, int num_ranks) {
  ShowSubject s = routing(num_layers, num_experts);
  s.kind = "plan";
  for (int r = 0; r < num_ranks; ++r) s.topology.rank2node.push_back(r * num_nodes / num_ranks);
  s.plan.rank2node = s.topology.rank2node;
  LayerPlacement layer{std::vector<std::vector<int>>(static_cast<std::size_t>(num_ranks))};
  for (int e = 0; e < num_experts; ++e) layer.rank2experts[static_cast<std::size_t>(e % num_ranks)].push_back(e);
  s.plan.placement = {num_experts, s.loads.layers, {s.loads.layers.size(), layer}};
  return s;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t at = 0, end = 0; at < text.size(); at = end + 1) {
    end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
  }
  return lines;
}

TEST(PlaceShow, ExpertFiguresAreThoseOfPlainCounting) {
  ShowSubject s{.path = "x", .kind = "routing"};
  s.loads = {10, 2, {0}, {{.load_E = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, .num_tokens = 45}}};
  const ExpertFigures e = show_figures(s).experts_L[0];
  EXPECT_DOUBLE_EQ(e.p50, 4 / 4.5);
  EXPECT_DOUBLE_EQ(e.p90, 8 / 4.5);
  EXPECT_DOUBLE_EQ(e.p99, 2);
  EXPECT_DOUBLE_EQ(e.max, 2);
  EXPECT_DOUBLE_EQ(e.max_vio, 1);
  EXPECT_NEAR(e.cv, std::sqrt(8.25) / 4.5, 1e-12);
  EXPECT_EQ(e.dead, 1);
  EXPECT_THAT(e.hottest, ElementsAre(9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
}

TEST(PlaceShow, TextOfASmallPlan) {
  const ShowSubject s = small_loaded_plan();
  const std::string text = show_text(s, show_figures(s), false, false);
  EXPECT_EQ(text, R"()") << text;
}

}  // namespace
}  // namespace moe
