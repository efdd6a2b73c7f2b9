#include "lib/run/scaling_law.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <stdexcept>
#include <vector>

#include "lib/run/paired.h"

namespace moe {
namespace {

constexpr double kLeastExponent = 1e-3, kMostExponent = 4;
constexpr int kGrid = 200, kSections = 80;

// Compute as x = ln C - center: the law is floor + scale exp(-b x).
struct Problem {
  std::vector<double> x_N, loss_N;
};
struct Solution {
  double floor = 0, scale = 0, squares = 0;
};

double squares_of(const Problem& p, double b, double floor, double scale) {
  double sum = 0;
  for (std::size_t i = 0; i < p.x_N.size(); ++i)
    sum += std::pow(1 - (floor + scale * std::exp(-b * p.x_N[i])) / p.loss_N[i], 2);
  return sum;
}

// The best floor and scale for an exponent: two linear unknowns with rows (1, exp(-b x)) / loss and the right side 1. A
// floor below 0 is set to 0, which is then the best that is allowed.
Solution solve_linear(const Problem& p, double b) {
  double aa = 0, au = 0, uu = 0, a = 0, u = 0;
  for (std::size_t i = 0; i < p.x_N.size(); ++i) {
    const double wa = 1 / p.loss_N[i], wu = std::exp(-b * p.x_N[i]) / p.loss_N[i];
    aa += wa * wa, au += wa * wu, uu += wu * wu, a += wa, u += wu;
  }
  const double determinant = aa * uu - au * au;
  Solution s{.floor = (a * uu - u * au) / determinant, .scale = (u * aa - a * au) / determinant};
  if (p.x_N.size() < 3 || !(s.floor > 0)) s = {.floor = 0, .scale = u / uu};
  s.squares = squares_of(p, b, s.floor, s.scale);
  return s;
}

double grid_exponent(int i) {
  return kLeastExponent * std::pow(kMostExponent / kLeastExponent, static_cast<double>(i) / (kGrid - 1));
}

double best_exponent(const Problem& p) {
  const auto cost = [&](double b) { return solve_linear(p, b).squares; };
  int best = 0;
  for (int i = 1; i < kGrid; ++i)
    if (cost(grid_exponent(i)) < cost(grid_exponent(best))) best = i;
  double low = grid_exponent(std::max(best - 1, 0)), high = grid_exponent(std::min(best + 1, kGrid - 1));
  for (int i = 0; i < kSections; ++i) {
    const double step = (high - low) / std::numbers::phi;
    cost(high - step) < cost(low + step) ? high = low + step : low = high - step;
  }
  return (low + high) / 2;
}

// Of positive numbers that ascend in compute; anything that breaks the comparison is refused, NaN too.
void check(std::span<const ScalingPoint> points) {
  if (points.size() < 2) throw std::invalid_argument("a law needs at least two runs");
  std::vector<double> flop;
  for (const ScalingPoint& p : points) {
    if (!(p.flop > 0 && p.loss > 0 && std::isfinite(p.flop) && std::isfinite(p.loss)))
      throw std::invalid_argument("compute and loss must be above 0");
    flop.push_back(p.flop);
  }
  std::sort(flop.begin(), flop.end());
  if (std::adjacent_find(flop.begin(), flop.end()) != flop.end())
    throw std::invalid_argument("two runs have the same compute");
}

// x with A x = y, by Gauss with pivots; the leading n x n part. NaN where A is singular.
std::array<double, 3> solve(const double (&A)[3][3], std::array<double, 3> y, int n) {
  double m[3][3];
  std::copy(&A[0][0], &A[0][0] + 9, &m[0][0]);
  for (int c = 0; c < n; ++c) {
    int pivot = c;
    for (int r = c + 1; r < n; ++r)
      if (std::abs(m[r][c]) > std::abs(m[pivot][c])) pivot = r;
    std::swap(m[c], m[pivot]), std::swap(y[c], y[pivot]);
    for (int r = c + 1; r < n; ++r) {
      const double f = m[r][c] / m[c][c];
      for (int k = c; k < n; ++k) m[r][k] -= f * m[c][k];
      y[r] -= f * y[c];
    }
  }
  for (int r = n - 1; r >= 0; --r) {
    for (int k = r + 1; k < n; ++k) y[r] -= m[r][k] * y[k];
    y[r] /= m[r][r];
  }
  return y;
}

// Slopes of ln(law) in ln(factor), exponent and, where it is not 0, the floor.
std::array<double, 3> slopes(const ScalingLaw& law, double flop, double center) {
  const double loss = law(flop), part = (loss - law.floor) / loss;
  return {part, -part * (std::log(flop) - center), 1 / loss};
}

}  // namespace

double ScalingLaw::operator()(double flop) const { return floor + factor * std::pow(flop, -exponent); }

ScalingFit::ScalingFit(std::span<const ScalingPoint> points) {
  check(points);
  const auto n = static_cast<double>(points.size());
  for (const ScalingPoint& p : points) center_ += std::log(p.flop) / n;
  Problem problem;
  for (const ScalingPoint& p : points) problem.x_N.push_back(std::log(p.flop) - center_), problem.loss_N.push_back(p.loss);
  const double b = best_exponent(problem);
  const Solution s = solve_linear(problem, b);
  law_ = {s.floor, s.scale * std::exp(b * center_), b};
  if (!(s.scale > 0) || b < 1.01 * kLeastExponent) throw std::invalid_argument("the losses do not fall with compute");
  free_ = static_cast<int>(points.size()) - (law_.floor > 0 ? 3 : 2);
  relative_error_ = free_ > 0 ? std::sqrt(s.squares / free_) : std::numeric_limits<double>::quiet_NaN();
  for (const ScalingPoint& p : points) {
    const auto g = slopes(law_, p.flop, center_);
    for (int r = 0; r < 3; ++r)
      for (int c = 0; c < 3; ++c) information_[r][c] += g[r] * g[c];
  }
}

double ScalingFit::leverage(double flop) const {
  const auto g = slopes(law_, flop, center_);
  const int n = law_.floor > 0 ? 3 : 2;
  const auto x = solve(information_, g, n);
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += g[i] * x[i];
  return sum;
}

ScalingPrediction ScalingFit::predict(double flop, double probability) const {
  ScalingPrediction p{.loss = law_(flop)};
  if (free_ <= 0) return p;
  const double half = student_t_quantile((1 + probability) / 2, free_) * relative_error_ * std::sqrt(1 + leverage(flop));
  if (!std::isfinite(half)) return p;
  p.low = p.loss * std::exp(-half), p.high = p.loss * std::exp(half);
  return p;
}

std::optional<ScalingPrediction> predict_last(std::span<const ScalingPoint> ascending, double probability) {
  if (ascending.size() < 3) return std::nullopt;
  return ScalingFit(ascending.first(ascending.size() - 1)).predict(ascending.back().flop, probability);
}

}  // namespace moe
