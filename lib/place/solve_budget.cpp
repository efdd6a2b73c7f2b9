#include "lib/place/solve_budget.h"

#include <algorithm>
#include <string>

#include "lib/base/error.h"
#include "lib/base/threads.h"
#include "lib/place/solve_search.h"
#include "lib/place/solve_start.h"

namespace moe {
namespace {

// The search of one layer: after how many steps how many copies are moved, and the load of the worst rank.
struct Point {
  int num_steps, num_moved;
  double max_load;
};

std::vector<Point> path_of(const LayerProblem& problem) {
  Packing p = from_old(problem);
  std::vector<Point> path{{0, p.num_moved(), p.max_load()}};
  descend(p, {enough_load(problem), 0, {}}, [&](const Packing& now) {
    path.push_back({static_cast<int>(path.size()), now.num_moved(), now.max_load()});
  });
  return path;
}

LayerPlacement follow(const LayerProblem& problem, int num_steps) {
  Packing p = from_old(problem);
  descend(p, {enough_load(problem), 0, [&] { return num_steps-- == 0; }});
  return p.placement();
}

// The point of `path` after `from` with the most gain per copy that `budget` allows; none: `from`. A point that needs no
// more copies than `from` is always worth it.
struct Stride {
  std::size_t to;
  double gain_per_copy = 0;
};
Stride best_stride(const std::vector<Point>& path, std::size_t from, std::int64_t budget) {
  Stride best{from};
  for (std::size_t i = from + 1; i < path.size(); ++i) {
    const int copies = path[i].num_moved - path[from].num_moved;
    if (copies > budget) continue;
    const double gain = (path[from].max_load - path[i].max_load) / std::max(copies, 0);
    if (gain > best.gain_per_copy) best = {i, gain};
  }
  return best;
}

}  // namespace

std::vector<LayerPlacement> balance_with_budget(const std::vector<LayerProblem>& problems, std::int64_t budget,
                                                int num_threads) {
  std::vector<std::vector<Point>> path_L(problems.size());
  for_each_on_threads(problems.size(), num_threads, [&](std::size_t l, std::size_t) { path_L[l] = path_of(problems[l]); });
  std::vector<std::size_t> at_L(problems.size());
  std::int64_t left = budget;
  for (const auto& path : path_L) left -= path[0].num_moved;
  if (left < 0)
    throw Error(Exit::kUsage, "move budget: expected at least the " + std::to_string(budget - left) +
                                  " copies that must move for slots and pins, found " + std::to_string(budget));
  for (;;) {
    std::size_t layer = 0;
    Stride best{0};
    for (std::size_t l = 0; l < path_L.size(); ++l) {
      const Stride s = best_stride(path_L[l], at_L[l], left);
      if (s.gain_per_copy > best.gain_per_copy) best = s, layer = l;
    }
    if (best.gain_per_copy <= 0) break;
    left -= path_L[layer][best.to].num_moved - path_L[layer][at_L[layer]].num_moved;
    at_L[layer] = best.to;
  }
  std::vector<LayerPlacement> placed(problems.size());
  for_each_on_threads(problems.size(), num_threads,
                      [&](std::size_t l, std::size_t) { placed[l] = follow(problems[l], path_L[l][at_L[l]].num_steps); });
  return placed;
}

}  // namespace moe
