// The scaling law against laws that are known, its intervals against noise that is known, and its picture. Not here: the
// command and its files (scaling_ladder_test.sh).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "lib/base/rng.h"
#include "lib/run/curves_picture.h"
#include "lib/run/paired.h"
#include "lib/run/scaling_law.h"
#include "lib/run/scaling_picture.h"
#include "tests/xml_fault.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

std::vector<ScalingPoint> points_of(const ScalingLaw& law, int count, double first = 1e12, double ratio = 4) {
  std::vector<ScalingPoint> points;
  for (int i = 0; i < count; ++i) {
    const double flop = first * std::pow(ratio, i);
    points.push_back({flop, law(flop)});
  }
  return points;
}

// Chinchilla's, a small ladder's, one without a floor, and one far outside of what floats hold.
const ScalingLaw kLaws[] = {{1.69, 1070, 0.155}, {1.2, 30, 0.12}, {0, 90, 0.1}, {0.5, 1e9, 0.8}};

TEST(ScalingLaw, FindsTheLawThatMadeThePoints) {
  for (const ScalingLaw& law : kLaws)
    for (const int n : {3, 4, 7}) {
      SCOPED_TRACE(std::to_string(law.exponent) + " from " + std::to_string(n));
      const auto points = points_of(law, n);
      const ScalingFit fit(points);
      EXPECT_NEAR(fit.law().exponent, law.exponent, 1e-4 * law.exponent);
      EXPECT_NEAR(fit.law().floor, law.floor, 1e-3);
      EXPECT_NEAR(fit.predict(1e17, 0.9).loss / law(1e17), 1, 1e-4);
      if (n > 3) {
        EXPECT_LT(fit.relative_error(), 1e-6);
      }
    }
}

TEST(ScalingLaw, TwoRunsGiveAPowerLawAndNoInterval) {
  const std::vector<ScalingPoint> points{{1e12, 4}, {1e14, 2}};
  const ScalingFit fit(points);
  EXPECT_EQ(fit.law().floor, 0);
  const ScalingPrediction next = fit.predict(1e16, 0.9);
  EXPECT_NEAR(next.loss, 1, 1e-6);
  EXPECT_FALSE(next.low || next.high);
  EXPECT_EQ(fit.free_residuals(), 0);
}

// Losses that fall ever faster have no floor above 0; the law stays a power of compute.
TEST(ScalingLaw, FloorIsNotBelowZero) {
  const std::vector<ScalingPoint> points{{1e12, 4}, {1e13, 3.5}, {1e14, 2.8}, {1e15, 1.9}};
  const ScalingFit fit(points);
  EXPECT_EQ(fit.law().floor, 0);
  EXPECT_EQ(fit.free_residuals(), 2);
  // The best power of compute, by linear regression of the logarithms, is near it.
  EXPECT_NEAR(fit.law().exponent, 0.106, 0.01);
}

// Of 600 ladders with noise of 0.5 %, 80 % of the next runs lie in the interval of 80 %. The floor makes the problem
// nonlinear, so the share need not be exact.
TEST(ScalingLaw, IntervalHoldsAsManyRunsAsItSays) {
  const Rng rng(1, "noise");
  for (const int n : {4, 6}) {
    int inside = 0;
    constexpr int kTrials = 600;
    for (std::uint64_t trial = 0; trial < kTrials; ++trial) {
      std::vector<ScalingPoint> points = points_of(kLaws[0], n + 1, 1e12, 6);
      for (std::size_t i = 0; i < points.size(); ++i) points[i].loss *= std::exp(0.005 * rng.normal(10 * trial + i));
      const ScalingPrediction next = ScalingFit(std::span(points).first(points.size() - 1)).predict(points.back().flop, 0.8);
      if (next.low) inside += *next.low <= points.back().loss && points.back().loss <= *next.high;
    }
    EXPECT_NEAR(static_cast<double>(inside) / kTrials, 0.8, 0.06) << n;
  }
}

TEST(ScalingLaw, LastRunFromTheOthers) {
  std::vector<ScalingPoint> points = points_of(kLaws[0], 5);
  const double true_loss = points.back().loss;
  points.back().loss *= 2;  // must not be looked at
  const auto last = predict_last(points, 0.8);
  ASSERT_TRUE(last);
  EXPECT_NEAR(last->loss, true_loss, 1e-3);
  EXPECT_TRUE(last->low && last->high);
  EXPECT_FALSE(predict_last(std::span(points).first(2), 0.8));
}

TEST(ScalingLaw, RefusesWhatHasNoLaw) {
  const auto refused = [](std::vector<ScalingPoint> points) {
    try {
      const ScalingFit fit(points);
    } catch (const std::invalid_argument&) {
      return true;
    }
    return false;
  };
  EXPECT_TRUE(refused({}));
  EXPECT_TRUE(refused({{1e12, 3}}));
  EXPECT_TRUE(refused({{1e12, 3}, {1e12, 2}}));
  EXPECT_TRUE(refused({{1e12, 3}, {0, 2}}));
  EXPECT_TRUE(refused({{1e12, 3}, {1e13, -1}}));
  EXPECT_TRUE(refused({{1e12, 3}, {1e13, NAN}}));
  EXPECT_TRUE(refused({{1e12, 3}, {1e13, INFINITY}}));
  EXPECT_TRUE(refused({{1e12, 2}, {1e13, 3}, {1e14, 4}}));
  EXPECT_TRUE(refused({{1e12, 2}, {1e13, 2}, {1e14, 2}}));
}

// Tables of Student's t.
TEST(StudentT, QuantilesAreThoseOfTheTables) {
  EXPECT_NEAR(student_t_quantile(0.9, 1), 3.0777, 1e-4);
  EXPECT_NEAR(student_t_quantile(0.975, 1), 12.7062, 1e-4);
  EXPECT_NEAR(student_t_quantile(0.975, 4), 2.7764, 1e-4);
  EXPECT_NEAR(student_t_quantile(0.95, 30), 1.6973, 1e-4);
  EXPECT_NEAR(student_t_quantile(0.5, 3), 0, 1e-6);
}

TEST(ScalingPicture, IsWellFormedAndFinite) {
  for (const int n : {2, 3, 4, 9}) {
    ScalingPicture p{
        .title = "a < b", .subtitle = "law", .points = points_of(kLaws[0], n), .predicted_flop = 1e18, .loss_name = "loss"};
    for (int i = 0; i < n; ++i) {
      p.names.push_back("rung-" + std::to_string(i));
      p.points[static_cast<std::size_t>(i)].loss *= 1 + 0.003 * (i % 2);
    }
    const ScalingFit fit(p.points);
    const std::string svg = draw_scaling_svg(p, fit);
    EXPECT_EQ(xml_fault(svg), "");
    EXPECT_EQ(odd_number(svg), "");
    EXPECT_THAT(svg, HasSubstr("rung-1"));
    EXPECT_THAT(svg, HasSubstr("predicted"));
    EXPECT_EQ(svg.find("<polygon") != std::string::npos, fit.free_residuals() > 0);
    EXPECT_LT(svg.size(), 20000u);
  }
}

TEST(CurvesPicture, IsWellFormedAndFinite) {
  RunCurve full{.name = "a < b"}, empty{.name = "empty"}, none{.name = "none"};
  for (int s = 1; s <= 5000; ++s) {
    full.step_N.push_back(s), none.step_N.push_back(s);
    full.loss_N.push_back(s == 77 ? INFINITY : 5.0 / s), full.max_vio_N.push_back(1.0 / s);
    none.loss_N.push_back(NAN), none.max_vio_N.push_back(NAN);
  }
  for (const std::vector<RunCurve>& runs : {std::vector{full, none, empty}, {none}, {empty}, {}}) {
    const std::string svg = draw_curves_svg("curves", runs);
    EXPECT_EQ(xml_fault(svg), "");
    EXPECT_EQ(odd_number(svg), "");
    EXPECT_LT(svg.size(), 12000u);
  }
  EXPECT_NEAR(end_of({9, 9, 9, 9, 9, 9, 9, 9, 9, 1}), 1, 1e-12);
  EXPECT_TRUE(std::isnan(end_of({})) && std::isnan(end_of({NAN})));
}

}  // namespace
}  // namespace moe
