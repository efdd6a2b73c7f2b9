// The picture of a run is well-formed XML with finite numbers for every run there may be, shows what it is given, and
// stays small. Not here: whether it is pretty.
#include "lib/run/picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "lib/run/svg.h"
#include "tests/xml_fault.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// Well-formed, and no number that is not finite anywhere in an attribute or a label.
void expect_good(const RunPicture& run) {
  const std::string svg = draw_run_svg(run);
  EXPECT_EQ(xml_fault(svg), "");
  EXPECT_EQ(odd_number(svg), "");
}

RunPicture sample_run(int num_steps, int num_layers, int num_experts) {
  RunPicture run{.title = "tiny", .subtitle = "a run", .unigram_entropy = 3.3};
  for (int s = 1; s <= num_steps; ++s)
    run.points.push_back({.step = s,
                          .train_loss = 1.5 + 4 * std::exp(-5.0 * s / num_steps) + 0.1 * std::sin(37.0 * s),
                          .eval_loss = s % 100 == 0 ? 1.6 : kNaN,
                          .lr = 1e-3,
                          .max_vio = 1.0 / s});
  for (int l = 0; l < num_layers; ++l) {
    LayerLoad row{.layer = l};
    for (int e = 0; e < num_experts; ++e) row.load_E.push_back(0.1 * ((l * 7 + e * 3) % 31));
    run.load.push_back(row);
  }
  return run;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(part, at)) != std::string::npos; at += part.size()) ++n;
  return n;
}

TEST(XmlFault, SeesFaults) {
  const std::string head = "<?xml version=\"1.0\"?>";
  EXPECT_EQ(xml_fault(head + "<a><b x=\"1\"/></a>"), "");
  EXPECT_NE(xml_fault(head + "<a><b></a></b>"), "");
  EXPECT_NE(xml_fault(head + "<a>"), "");
  EXPECT_NE(xml_fault(head + "<a/><a/>"), "");
  EXPECT_NE(xml_fault(head + "<a>x & y</a>"), "");
  EXPECT_NE(xml_fault(head + "<a>x < y</a>"), "");
  EXPECT_NE(xml_fault(head + "<a x=1/>"), "");
  EXPECT_NE(xml_fault("<a/>"), "");
}

TEST(Picture, IsWellFormedForRunsOfEverySize) {
  for (const int steps : {0, 1, 2, 3, 7, 997, 20000})
    for (const auto& [layers, experts] : {std::pair{0, 0}, {1, 1}, {1, 4}, {4, 8}, {7, 13}, {48, 128}}) {
      SCOPED_TRACE(std::to_string(steps) + " steps, " + std::to_string(layers) + " x " + std::to_string(experts));
      if (steps < 20000 || experts == 128) expect_good(sample_run(steps, layers, experts));
    }
}

TEST(Picture, SurvivesOddSeries) {
  RunPicture run = sample_run(9, 2, 3);
  for (const double odd : {kNaN, kInf, -kInf, 0.0, -1.0, 1e300, 1e-300}) {
    SCOPED_TRACE(odd);
    for (CurvePoint& p : run.points) p.train_loss = p.eval_loss = p.lr = p.max_vio = odd;  // constant
    for (LayerLoad& row : run.load) row.load_E.assign(3, odd);
    run.unigram_entropy = odd;
    expect_good(run);
    run.points[4].train_loss = 2.5;  // one value that can be drawn
    expect_good(run);
  }
  run.load[1].load_E.clear();  // layers of different widths
  expect_good(run);
  for (CurvePoint& p : run.points) p.step = 5;
  expect_good(run);
}

TEST(Picture, EscapesTitles) {
  RunPicture run = sample_run(3, 1, 4);
  run.title = "a<b>&\"c\"\x01 \xff\xc3\xa9 \xed\xa0\x80";
  run.subtitle = "<script>" + std::string(1000, 'x');
  expect_good(run);
  const std::string svg = draw_run_svg(run);
  EXPECT_THAT(svg, HasSubstr("a&lt;b&gt;&amp;&quot;c&quot;? ?\xc3\xa9 ???"));
  EXPECT_THAT(svg, Not(HasSubstr("<script")));
  EXPECT_THAT(svg, Not(HasSubstr(std::string(200, 'x'))));
}

TEST(Picture, ShowsWhatItIsGiven) {
  const std::string svg = draw_run_svg(sample_run(500, 2, 4));
  for (const char* words : {"loss (nats per token)", ">step<", "training ", "held-out text 1.6<", "unigram entropy 3.3<",
                            "learning rate", ">expert<", ">layer<", "load of an expert / balanced load"})
    EXPECT_THAT(svg, HasSubstr(words));
  EXPECT_EQ(count(svg, "stroke-dasharray"), 2u) << "the entropy line and its entry in the legend";
  EXPECT_EQ(count(svg, "<circle"), 5u) << "one per evaluation";
  EXPECT_THAT(svg, HasSubstr(">0.9<")) << "the value inside a wide cell";

  RunPicture bare = sample_run(500, 0, 0);
  bare.unigram_entropy = 0;
  for (CurvePoint& p : bare.points) p.eval_loss = kNaN;
  const std::string less = draw_run_svg(bare);
  EXPECT_THAT(less, HasSubstr("no expert layers"));
  for (const char* words : {"stroke-dasharray", "held-out", "<circle"}) EXPECT_THAT(less, Not(HasSubstr(words)));
  EXPECT_THAT(draw_run_svg({}), HasSubstr("no steps yet"));
}

TEST(Picture, DeadExpertsAreBlackAndEveryCellIsDrawnOnce) {
  RunPicture run = sample_run(3, 0, 0);
  run.load = {{.layer = 5, .load_E = {0, 1, 1, 2}}};
  const std::string svg = draw_run_svg(run);
  EXPECT_THAT(svg, HasSubstr("<path fill=\"#1a1a1a\" d=\"M0 0h1v1H0z\"/>"));
  EXPECT_THAT(svg, HasSubstr("d=\"M1 0h2v1H1z\"/>"));
  EXPECT_THAT(svg, HasSubstr("d=\"M3 0h1v1H3z\"/>"));
  EXPECT_EQ(count(svg, "<path"), 3u);
}

TEST(Picture, LongRunsStaySmall) { EXPECT_LT(draw_run_svg(sample_run(20000, 48, 128)).size(), 400'000u); }

TEST(Svg, Numbers) {
  EXPECT_EQ(svg_number(1.0), "1");
  EXPECT_EQ(svg_number(-0.001), "0");
  EXPECT_EQ(svg_number(12.345), "12.35");
  EXPECT_EQ(svg_number(kNaN), "0");
  EXPECT_EQ(readable_number(12500), "12,500");
  EXPECT_EQ(readable_number(1234567, 9), "1,234,567");
  EXPECT_EQ(readable_number(-1500), "-1,500");
  EXPECT_EQ(readable_number(0.00012), "1.2e-4");
  EXPECT_EQ(readable_number(3e-3), "0.003");
  EXPECT_EQ(readable_number(0), "0");
  EXPECT_EQ(readable_number(kNaN), "?");
}

TEST(Svg, Ticks) {
  EXPECT_THAT(nice_ticks(0, 10, 5), ElementsAre(0, 2, 4, 6, 8, 10));
  EXPECT_THAT(nice_ticks(1, 3, 6, true), ElementsAre(1, 2, 3));
  EXPECT_THAT(nice_ticks(4, 4, 5), ElementsAre(4));
  EXPECT_THAT(nice_ticks(kNaN, 1, 5), ElementsAre());
  EXPECT_LE(nice_ticks(1e17, 1e17 + 64, 5).size(), 20u);
}

}  // namespace
}  // namespace moe
