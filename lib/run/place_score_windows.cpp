// A plan over time: each window of recorded steps judged by itself. Not here: the tables (place_score_report.cpp).
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lib/base/error.h"
#include "lib/place/solve.h"
#include "lib/run/place_score_report.h"

namespace moe {
namespace {

constexpr double kNotKnown = std::numeric_limits<double>::quiet_NaN();

// Mean and worst over layers of max over mean.
struct Balance {
  double mean = 0, worst = 1;
};
Balance balance_of(const Placement& placement, const Loads& loads, const Topology& topology, ReplicaChoice choice) {
  Balance b;
  for (std::size_t i = 0; i < placement.placed.size(); ++i) {
    const double x = max_over_mean(rank_loads(placement.placed[i], loads.of_layer[i], topology, choice));
    b.mean += x / static_cast<double>(placement.placed.size());
    b.worst = std::max(b.worst, x);
  }
  return b;
}

// Pearson's; NaN where one of the two is flat.
double correlation(const std::vector<double>& x, const std::vector<double>& y) {
  const auto n = static_cast<double>(x.size());
  const double mean_x = std::accumulate(x.begin(), x.end(), 0.0) / n, mean_y = std::accumulate(y.begin(), y.end(), 0.0) / n;
  double xx = 0, yy = 0, xy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    xx += (x[i] - mean_x) * (x[i] - mean_x);
    yy += (y[i] - mean_y) * (y[i] - mean_y);
    xy += (x[i] - mean_x) * (y[i] - mean_y);
  }
  return xx > 0 && yy > 0 ? xy / std::sqrt(xx * yy) : kNotKnown;
}

// Mean over the layers where it is known.
double correlation(const Loads& a, const Loads& b) {
  double sum = 0, count = 0;
  for (std::size_t l = 0; l < a.of_layer.size(); ++l)
    if (const double c = correlation(a.of_layer[l].load_E, b.of_layer[l].load_E); !std::isnan(c)) sum += c, ++count;
  return count > 0 ? sum / count : kNotKnown;
}

// A plan of one window as the solver makes it, with the slots of the plan in question.
Placement fresh_plan(const Loads& loads, const Placement& like, const Topology& topology, ReplicaChoice choice,
                     int threads) {
  SolveRequest request;
  request.topology = topology;
  request.num_slots = like.placed[0].num_slots();
  for (const LayerPlacement& p : like.placed) request.num_slots = std::min(request.num_slots, p.num_slots());
  request.choice = choice;
  request.num_threads = std::max(1, threads);
  return solve(loads, request);
}

}  // namespace

ScoreWindows score_windows(const PlanFile& plan, const RecordedLoads& recorded, const Topology& topology,
                           const PlaceInputs& inputs, const PlaceScoreOptions& options, const CommonOptions& common) {
  const auto num_windows = static_cast<std::size_t>(options.windows);
  const std::vector<std::int64_t>& steps = recorded.step_S;
  if (steps.size() < num_windows)
    throw Error(Exit::kUsage, "--windows: expected at most the " + std::to_string(steps.size()) + " recorded steps, found " +
                                  std::to_string(num_windows));
  const Placement& placed = plan.placement;
  const Placement linear = linear_placement(placed.layers, placed.num_experts, topology.num_ranks());
  ScoreWindows windows;
  Loads first, before;
  for (std::size_t w = 0; w < num_windows; ++w) {
    const std::int64_t begin = steps[w * steps.size() / num_windows], last = steps[(w + 1) * steps.size() / num_windows - 1];
    Loads loads = recorded.of(begin, last);
    const auto judge = [&](const Placement& p) { return balance_of(p, loads, topology, inputs.replica_choice); };
    const Balance now = judge(placed);
    ScoreWindow window{begin, last, now.mean, now.worst, judge(linear).mean, kNotKnown, kNotKnown, kNotKnown};
    if (w == 0) first = loads;
    if (w > 0) {
      window.fresh = judge(fresh_plan(before, placed, topology, inputs.replica_choice, common.threads)).mean;
      window.correlation = correlation(before, loads);
      window.correlation_with_first = correlation(first, loads);
    }
    windows.of_window.push_back(window);
    if (windows.stale_at < 0 && now.mean > windows.of_window[0].plan * (1 + options.stale_percent / 100))
      windows.stale_at = begin;
    before = std::move(loads);
  }
  return windows;
}

}  // namespace moe
