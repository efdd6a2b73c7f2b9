// moe-place show on small plans with figures that are known: the words, the heat maps, the pictures as well-formed XML.
// Not here: files and options (moe_place_show_test.sh), the scores (place_score_test.cpp), whether it is pretty.
#include "lib/run/place_show.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/run/svg.h"
#include "tests/xml_fault.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

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
  EXPECT_EQ(show_text(s, show_figures(s), false, false), R"(plan.h5: a plan
  layers        2 with experts (3,7)
  experts       4 in each layer
  ranks         4 in 2 nodes (node:2 rank:2)
  slots         4 to 5 in each layer, 0 to 2 on each rank
  copies        1 expert with several
  pinned        1 expert
  max/mean      1.417 on average, 1.500 in the worst layer (3); linear 1.667 on average, 2.000 in
                the worst layer (3)
  lower bound   1.167 on average
  inter-node    - rows per token; linear -
  memory        - (--expert-bytes says what an expert takes)
  came from     not recorded

Experts: load over the mean of the layer
  layer     tokens   p50   p90   p99   max  MaxVio    cv  dead  hottest         coldest
  3      1,234,567  0.50  2.00  2.00  2.00    1.00  0.61     0  0 2.00, 2 1.00  3 0.50, 1 0.50
  7              -  1.33  1.33  1.33  1.33    0.33  0.58     1  0 1.33, 1 1.33  3 0.00, 2 1.33

Ranks: load over the mean of the layer
  layer  slots  max/mean  bound  linear  inter-node rows  linear  hottest  copied  pinned
  3          5     1.500  1.000   2.000                -       -   rank 0       1       1
  7          4     1.333  1.333   1.333                -       -   rank 0       0       0

Load of ranks over the mean, this plan, layer x rank
  layer      0    1     2    3     max  rank
      3   1.50 1.00  1.50 0.00    1.50  0
      7   1.33 1.33  1.33 0.00    1.33  0

Ranks over all layers, the highest peak first
  rank  node  slots  memory  peak/mean  in layer  times hottest
     0     0      3       -       1.50         3              2
     2     1      3       -       1.50         3              0
     1     0      2       -       1.33         7              0
     3     1      1       -       0.00         3              0

Experts with copies, the most loaded first
  layer  expert  load/mean  copies  on ranks
      3       0       2.00       2  0 2

Pinned experts
  layer  expert  to ranks
      3       0  0
)");
}

TEST(PlaceShow, TextOfALayer) {
  ShowSubject s = small_loaded_plan();
  s.expert_bytes = 1 << 20;
  const std::string text = show_layer_text(s, show_figures(s), 0);
  EXPECT_EQ(text.substr(text.find("Layer 3")),
            R"(Layer 3: the experts of every rank (expert:load over the mean of all experts, x copies, * pinned)
  rank  node  load  load/mean  slots    memory  experts
     0     0     6      1.500      2  2.00 MiB  0:2.00x2* 1:0.50
     1     0     4      1.000      1  1.00 MiB  2:1.00
     2     1     6      1.500      2  2.00 MiB  0:2.00x2 3:0.50
     3     1     0      0.000      0       0 B
)");
}

TEST(PlaceShow, WhatIsNotKnownIsADash) {
  const ShowSubject s = small_plan();
  const ShowFigures f = show_figures(s);
  for (const std::string& text : {show_text(s, f, true, true), show_layer_text(s, f, 1), show_html(s, f),
                                  draw_place_svg(show_picture(s, f)), show_json(s, f).dump()})
    EXPECT_EQ(odd_number(text), "");
  EXPECT_THAT(show_text(s, f, false, false), HasSubstr("inter-node    - rows per token"));
  EXPECT_THAT(show_text(s, f, false, false), HasSubstr("load          - ("));
  EXPECT_TRUE(show_json(s, f)["inter_node_rows_per_token"].is_null());
  EXPECT_TRUE(show_json(s, f)["memory_bytes_R"].is_null());
  EXPECT_EQ(figure_text(kNaN), "-");
  EXPECT_EQ(figure_text(1 / 0.0), "-");

  ShowSubject idle = small_loaded_plan();  // nothing was routed in the second layer
  idle.loads.of_layer[1].load_E.assign(4, 0);
  const ShowFigures g = show_figures(idle);
  EXPECT_TRUE(std::isnan(g.experts_L[1].max));
  EXPECT_DOUBLE_EQ(g.placed[0].worst_max, g.placed[0].mean_max) << "the layer without load does not count";
  EXPECT_EQ(odd_number(show_text(idle, g, false, false) + show_html(idle, g) + show_json(idle, g).dump()), "");
}

TEST(PlaceShow, JsonHasTheFiguresOfTheTables) {
  const ShowSubject s = small_loaded_plan();
  const nlohmann::json j = show_json(s, show_figures(s));
  EXPECT_EQ(j["layers"][0]["plan"]["rank_load_R"], nlohmann::json({6.0, 4.0, 6.0, 0.0}));
  EXPECT_EQ(j["layers"][0]["plan"]["max_over_mean"], 1.5);
  EXPECT_EQ(j["layers"][0]["linear"]["max_over_mean"], 2.0);
  EXPECT_EQ(j["copies"], nlohmann::json::parse(R"([{"layer": 3, "expert": 0, "ranks": [0, 2]}])"));
  EXPECT_EQ(j["pinned"], nlohmann::json::parse(R"([{"layer": 3, "expert": 0, "ranks": [0]}])"));
}

TEST(PlaceShow, MapsFoldIntoATerminal) {
  for (const auto& [layers, nodes, ranks] :
       {std::tuple{61, 16, 128}, {61, 1, 128}, {61, 128, 128}, {1, 1, 1}, {97, 3, 19}, {2, 7, 97}, {120, 20, 397}}) {
    SCOPED_TRACE(std::to_string(layers) + " x " + std::to_string(ranks));
    const ShowSubject s = large_plan(layers, 3 * ranks, nodes, ranks);
    const ShowFigures f = show_figures(s);
    const std::vector<std::string> lines = lines_of(heat_text(rank_map(s, f, 0), false));
    EXPECT_LE(lines.size(), kHeatLines + 3);
    for (const std::string& line : lines) EXPECT_LE(line.size(), kHeatColumns) << line;
  }
  const ShowSubject s = large_plan(61, 384, 16, 128);
  const std::string text = heat_text(rank_map(s, show_figures(s), 0), false);
  EXPECT_THAT(text, HasSubstr("a cell is the largest of up to 2 neighbouring ranks"));
}

TEST(PlaceShow, AHotRankIsSeenAmongFoldedNeighbours) {
  HeatMap map{.title = "t", .column = "rank", .layers = {5}, .value_LC = {std::vector<double>(200, 0.9)}};
  map.value_LC[0][133] = 3;
  map.value_LC[0][53] = 0;
  map.value_LC[0][51] = 0;
  map.value_LC[0][52] = 0;
  const std::string line = lines_of(heat_text(map, false)).back();
  EXPECT_EQ(std::count(line.begin(), line.end(), '4'), 1) << line;
  EXPECT_THAT(line, ::testing::EndsWith("  3.00  133"));
  EXPECT_THAT(line, HasSubstr("_")) << "a fold of ranks without load";
  EXPECT_THAT(heat_text(map, true), HasSubstr("\x1b[48;5;124;38;5;231m4\x1b[0m"));
}

TEST(PlaceShow, PicturesAreWellFormedAndEscaped) {
  for (ShowSubject s : {small_plan(), small_loaded_plan(), routing(1, 1), routing(3, 7), large_plan(61, 384, 16, 128)}) {
    s.path = "a<b>&\"c\"\x01<script>";
    s.loads.top_k = 2;
    const ShowFigures f = show_figures(s);
    const std::string svg = draw_place_svg(show_picture(s, f)), html = show_html(s, f);
    EXPECT_EQ(xml_fault(svg), "");
    ASSERT_TRUE(html.starts_with("<!DOCTYPE html>\n"));
    EXPECT_EQ(xml_fault("<?xml version=\"1.0\"?>" + html.substr(16)), "");
    EXPECT_EQ(odd_number(svg) + odd_number(html), "");
    for (const std::string& text : {svg, html}) {
      EXPECT_THAT(text, HasSubstr("a&lt;b&gt;&amp;&quot;c&quot;?&lt;script&gt;"));
      EXPECT_EQ(text.find("<script"), std::string::npos);
    }
  }
}

TEST(PlaceShow, PicturesSayWhatACellIs) {
  const ShowSubject s = small_loaded_plan();
  const ShowFigures f = show_figures(s);
  const std::string svg = draw_place_svg(show_picture(s, f));
  EXPECT_THAT(svg, HasSubstr("<title>layer 3, rank 2 (node 1): load 1.50 of the mean, 2 slots, experts 0 3</title>"));
  for (const char* words : {"before: linear placement", "after: this plan", ">node 1<", "worst max / mean"})
    EXPECT_THAT(svg, HasSubstr(words));
  EXPECT_THAT(svg, HasSubstr("fill=\"#24292f\"><title>layer 3, rank 3")) << "a rank without rows";
  EXPECT_THAT(show_html(s, f), HasSubstr("layer 3, expert 0: load 2.00 of the mean"));
}

}  // namespace
}  // namespace moe
