// Steps of more than two ranks, tried when swaps do not help.
#include <algorithm>
#include <limits>
#include <numeric>

#include "lib/place/solve_steps.h"

namespace moe {
namespace {

// e of `from` for f of the other rank: so much load goes.
struct Swap {
  double load;
  int e, f;
};

// All swaps of r with q that take load from r, smallest first.
void swaps_of(const Packing& p, int r, int q, std::vector<Swap>& swaps) {
  swaps.clear();
  for (const int e : p.experts_of(r))
    if (may_go(p, e, r, q))
      for (const int f : p.experts_of(q))
        if (p.copy_load(e) > p.copy_load(f) && may_go(p, f, q, r)) swaps.push_back({p.copy_load(e) - p.copy_load(f), e, f});
  std::sort(swaps.begin(), swaps.end(), [](const Swap& x, const Swap& y) {
    return x.load != y.load ? x.load < y.load : (x.e != y.e ? x.e < y.e : x.f < y.f);
  });
}

struct Chain {
  Swap first{}, second{};
  int q = -1, s = -1;
  double worse = 0;
};

// Swap x makes q too heavy; the best of the swaps of q with s that mends it.
void mend(const Packing& p, int r, int q, const Swap& x, int s, const std::vector<Swap>& swaps, Chain& best) {
  const double load_q = p.load_of(q) + x.load, even = (load_q - p.load_of(s)) / 2;
  const auto after = std::lower_bound(swaps.begin(), swaps.end(), even, [](const Swap& y, double d) { return y.load < d; });
  const auto look = [&](const Swap& y) {
    const double worse = std::max({p.load_of(r) - x.load, load_q - y.load, p.load_of(s) + y.load});
    if (worse < best.worse && y.e != x.f && y.f != x.e) best = {x, y, q, s, worse};
  };
  if (after != swaps.end()) look(*after);
  if (after != swaps.begin()) look(*(after - 1));
}

// Ranks by load, lightest first.
std::vector<int> by_load(const Packing& p) {
  std::vector<int> order(static_cast<std::size_t>(p.num_ranks()));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p.load_of(a) < p.load_of(b); });
  return order;
}

constexpr std::size_t kThirdRanks = 4;  // only the lightest serve as the third

}  // namespace

bool swap_chain(Packing& p) {
  const int r = p.worst_rank();
  Chain best;
  best.worse = below(p.load_of(r));
  const std::vector<int> order = by_load(p);
  std::vector<Swap> first, second;
  for (const int q : order) {
    if (q == r) continue;
    swaps_of(p, r, q, first);
    for (std::size_t i = 0; i < std::min(kThirdRanks, order.size()); ++i) {
      const int s = order[i];
      if (s == q || s == r) continue;
      swaps_of(p, q, s, second);
      for (const Swap& x : first) mend(p, r, q, x, s, second, best);
    }
  }
  if (best.q < 0) return false;
  p.exchange(r, best.first.e, best.q, best.first.f);
  p.exchange(best.q, best.second.e, best.s, best.second.f);
  return true;
}

}  // namespace moe
