// P(a token touches a node) from how often pairs of experts were chosen together, where single decisions were not recorded.
// X = how many of a token's experts are on the node. Marginals give E[X], pairs give E[X (X - 1)], exactly. Of all
// distributions with these two moments the estimate takes the one that is nearest (relative entropy) to choosing top_k of
// the experts blindly: the pairwise maximum-entropy model of the node's experts, if they were interchangeable,
//   P(x) ~ C(n, x) C(num_experts - n, top_k - x) exp(a x + b x (x - 1)), n experts on the node,
// with a, b found by Newton's method on the convex dual. As a true distribution on 0..top_k with the right moments it lies
// within the Bonferroni (Dawson-Sankoff, Kwerel) bounds by itself; where the moments leave no room (b infinite) it is
// clipped to them. Not here: exact counts (score_nodes.cpp).
#include <algorithm>
#include <cmath>

#include "lib/base/error.h"
#include "lib/place/score_parts.h"

namespace moe {
namespace {

double log_choose(int n, int k) { return std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1); }

struct Moments {
  double log_sum = 0, x = 0, y = 0, xx = 0, xy = 0, yy = 0;  // of P; y = x (x - 1)
  double none = 0;                                           // P(0)
};

Moments moments_of(const std::vector<double>& log_base, double a, double b) {
  double top = -INFINITY;
  const auto exponent = [&](std::size_t i) {
    const double x = static_cast<double>(i);
    return log_base[i] + a * x + b * x * (x - 1);
  };
  for (std::size_t i = 0; i < log_base.size(); ++i) top = std::max(top, exponent(i));
  Moments m;
  double sum = 0;
  for (std::size_t i = 0; i < log_base.size(); ++i) {
    const double p = std::exp(exponent(i) - top), x = static_cast<double>(i), y = x * (x - 1);
    sum += p;
    m.x += p * x, m.y += p * y, m.xx += p * x * x, m.xy += p * x * y, m.yy += p * y * y;
  }
  for (double* v : {&m.x, &m.y, &m.xx, &m.xy, &m.yy}) *v /= sum;
  m.none = std::exp(exponent(0) - top) / sum;
  m.log_sum = top + std::log(sum);
  return m;
}

// P(X >= 1) of the tilted distribution with the wanted moments.
double tilted_touch(double mean, double pairs, const std::vector<double>& log_base) {
  double a = 0, b = 0;
  Moments m = moments_of(log_base, a, b);
  for (int step = 0; step < 60; ++step) {
    const double gx = mean - m.x, gy = pairs - m.y;
    if (std::abs(gx) < 1e-10 * (1 + mean) && std::abs(gy) < 1e-10 * (1 + pairs)) break;
    const double vx = m.xx - m.x * m.x, vy = m.yy - m.y * m.y, c = m.xy - m.x * m.y;
    const double ridge = 1e-12 * (vx + vy) + 1e-300, det = (vx + ridge) * (vy + ridge) - c * c;
    const double da = ((vy + ridge) * gx - c * gy) / det, db = ((vx + ridge) * gy - c * gx) / det;
    const double dual = a * mean + b * pairs - m.log_sum, rise = da * gx + db * gy;
    double length = std::min(1.0, 8 / std::max({std::abs(da), std::abs(db), 1e-300}));
    Moments next;
    for (int halving = 0; halving < 40; ++halving, length /= 2) {
      next = moments_of(log_base, a + length * da, b + length * db);
      if ((a + length * da) * mean + (b + length * db) * pairs - next.log_sum >= dual + 1e-4 * length * rise) break;
    }
    a += length * da, b += length * db, m = next;
    if (std::abs(a) > 300 || std::abs(b) > 300) break;  // the moments are those of fewer values: the bounds decide
  }
  return 1 - m.none;
}

// log of the number of choices of top_k of num_experts that take x of `num_here`, for x = 0, 1, ... If only parts of the
// experts' rows go to the node, of top_k independent ones (a factor r^x is in the tilt).
std::vector<double> blind_choice(int top_k, int num_here, int num_experts, bool parts) {
  std::vector<double> log_base;
  const int most = std::min(top_k, num_here), num_away = num_experts - num_here;
  for (int x = 0; x <= most; ++x) {
    const bool possible = parts || top_k - x <= num_away;
    log_base.push_back(!possible ? -INFINITY
                       : parts   ? log_choose(most, x)
                                 : log_choose(num_here, x) + log_choose(num_away, top_k - x));
  }
  return log_base;
}

// An expert and the part of its rows that goes to the node in question.
using Held = std::vector<Part>;

double touch_of(const Held& held, const LayerLoads& loads, int top_k, double num_tokens) {
  const std::size_t num_experts = loads.load_E.size();
  double mean = 0, pairs = 0;
  bool parts = false;
  for (const Part& a : held) {
    const double* row = &loads.coactivation_EE[static_cast<std::size_t>(a.at) * num_experts];
    double with = 0;
    for (const Part& b : held)
      if (b.at != a.at) with += b.share * row[b.at];
    mean += a.share * row[a.at];
    pairs += a.share * with;
    parts |= a.share < 1;
  }
  return touch_probability(mean / num_tokens, pairs / num_tokens,
                           blind_choice(top_k, static_cast<int>(held.size()), static_cast<int>(num_experts), parts));
}

}  // namespace

double touch_probability(double mean, double pairs, const std::vector<double>& log_base) {
  if (log_base.size() < 2 || !(mean > 0)) return 0;
  const double k = 1 + std::floor(pairs / mean), most = static_cast<double>(log_base.size()) - 1;
  const double low = std::clamp(2 * mean / (k + 1) - pairs / (k * (k + 1)), 0.0, 1.0);
  const double high = std::min(1.0, mean - pairs / most);
  if (!(high > low)) return low;
  return std::clamp(tilted_touch(mean, pairs, log_base), low, high);
}

TouchedNodes estimated_touches(const LayerLoads& loads, int top_k, int num_nodes) {
  const std::size_t num_experts = loads.load_E.size();
  if (loads.coactivation_EE.size() != num_experts * num_experts)
    throw Error(Exit::kBadInput, "co-activation: expected " + std::to_string(num_experts) + " x " +
                                     std::to_string(num_experts) + " numbers, found " +
                                     std::to_string(loads.coactivation_EE.size()));
  check_loads(loads.coactivation_EE);
  return [&loads, top_k, num_nodes, num_experts](const std::vector<std::vector<Part>>& parts_E) {
    std::vector<Held> held_N(static_cast<std::size_t>(num_nodes));
    double num_choices = 0;
    for (std::size_t e = 0; e < num_experts; ++e) {
      num_choices += loads.coactivation_EE[e * (num_experts + 1)];
      for (const Part& p : parts_E[e]) held_N[static_cast<std::size_t>(p.at)].push_back({static_cast<int>(e), p.share});
    }
    std::vector<double> touched_N;
    for (const Held& held : held_N)
      touched_N.push_back(num_choices > 0 ? touch_of(held, loads, top_k, num_choices / top_k) : 0);
    return touched_N;
  };
}

}  // namespace moe
