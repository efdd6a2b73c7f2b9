#include "lib/run/paired.h"

#include <algorithm>
#include <cmath>

namespace moe {
namespace {

double not_zero(double x) { return std::abs(x) < 1e-300 ? 1e-300 : x; }

// The continued fraction of I_x(a, b), which converges fast for x < (a + 1) / (a + b + 2).
double beta_fraction(double x, double a, double b) {
  double c = 1, d = 1 / not_zero(1 - (a + b) * x / (a + 1)), h = d;
  for (int m = 1; m <= 10000; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    d = 1 / not_zero(1 + even * d), c = not_zero(1 + even / c), h *= d * c;
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    d = 1 / not_zero(1 + odd * d), c = not_zero(1 + odd / c), h *= d * c;
    if (std::abs(d * c - 1) < 1e-15) break;
  }
  return h;
}

}  // namespace

double regularized_beta(double x, double a, double b) {
  if (!(x > 0)) return x <= 0 ? 0 : x;  // NaN stays
  if (x >= 1) return 1;
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x));
  return x < (a + 1) / (a + b + 2) ? front * beta_fraction(x, a, b) / a : 1 - front * beta_fraction(1 - x, b, a) / b;
}

double student_t_quantile(double probability, double freedom) {
  // P(|t| > q) = I_x(freedom / 2, 1 / 2) with x = freedom / (freedom + q^2), which grows with x.
  const double outside = 2 * (1 - probability);
  double low = 0, high = 1;
  for (int i = 0; i < 200; ++i) {
    const double x = (low + high) / 2;
    (regularized_beta(x, freedom / 2, 0.5) < outside ? low : high) = x;
  }
  return std::sqrt(freedom * (1 - high) / high);
}

PairedTest paired_test(std::span<const double> a, std::span<const double> b, std::span<const double> weights) {
  PairedTest r;
  const auto n = static_cast<double>(a.size());
  double sum = 0, weight = 0, squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    sum += a[i] - b[i], weight += weights[i];
    r.num_less += a[i]<b[i], r.num_equal += a[i] == b[i], r.num_greater += a[i]> b[i];
  }
  r.mean = sum / weight;
  for (std::size_t i = 0; i < a.size(); ++i) squares += std::pow(a[i] - b[i] - r.mean * weights[i], 2);
  r.standard_error = n < 2 ? std::nan("") : std::sqrt(squares * n / (n - 1)) / weight;
  const bool is_same = r.num_equal == static_cast<int>(a.size());
  r.t = is_same ? 0 : r.mean / r.standard_error;
  r.p_t = is_same ? 1 : std::isinf(r.t) ? 0 : regularized_beta((n - 1) / (n - 1 + r.t * r.t), (n - 1) / 2, 0.5);
  // P(at most k of m heads) = I_1/2(m - k, k + 1).
  const double m = r.num_less + r.num_greater, k = std::min(r.num_less, r.num_greater);
  r.p_sign = m == 0 ? 1 : std::min(1.0, 2 * regularized_beta(0.5, m - k, k + 1));
  return r;
}

}  // namespace moe
