#include <algorithm>
#include <limits>

#include "lib/place/solve_steps.h"

namespace moe {
namespace {

// One copy of `rank` for one of `other`; -1: none (a free slot).
struct Swap {
  int give = -1, other = -1, take = -1;
  double worse = std::numeric_limits<double>::infinity();  // load of the heavier of the two after it
};

// Keeps in `best` the swap of ranks r and q after which the heavier of them is the lightest.
void best_swap_with(const Packing& p, int r, int q, Swap& best) {
  const double load_r = p.load_of(r), load_q = p.load_of(q);
  if ((load_r + load_q) / 2 >= best.worse) return;
  const bool may_move = p.num_free(q) > 0 && p.may_lose(r);
  for (const int e : p.experts_of(r)) {
    if (!may_go(p, e, r, q)) continue;
    const double out = p.copy_load(e);
    if (load_r - out >= best.worse) continue;
    if (may_move && load_q + out < best.worse) best = {e, q, -1, std::max(load_r - out, load_q + out)};
    for (const int f : p.experts_of(q)) {
      const double d = out - p.copy_load(f), worse = std::max(load_r - d, load_q + d);
      if (worse < best.worse && may_go(p, f, q, r)) best = {e, q, f, worse};
    }
  }
}

void apply(Packing& p, int r, const Swap& s) {
  if (s.take >= 0) {
    p.exchange(r, s.give, s.other, s.take);
  } else {
    p.move(s.give, r, s.other);
  }
}

}  // namespace

bool swap_one(Packing& p) {
  const int r = p.worst_rank();
  Swap best;
  best.worse = below(p.load_of(r));
  for (int q = 0; q < p.num_ranks(); ++q)
    if (q != r) best_swap_with(p, r, q, best);
  if (best.other < 0) return false;
  apply(p, r, best);
  return true;
}

namespace {

struct Pair {
  double load;
  int a, b;
};

// Pairs of the copies of `rank` that may leave it, lightest first.
void pairs_of(const Packing& p, int rank, std::vector<Pair>& pairs) {
  pairs.clear();
  const auto experts = p.experts_of(rank);
  for (std::size_t i = 0; i < experts.size(); ++i)
    for (std::size_t j = i + 1; j < experts.size(); ++j)
      if (!p.is_pinned(rank, experts[i]) && !p.is_pinned(rank, experts[j]))
        pairs.push_back({p.copy_load(experts[i]) + p.copy_load(experts[j]), experts[i], experts[j]});
  std::sort(pairs.begin(), pairs.end(), [](const Pair& x, const Pair& y) {
    return x.load != y.load ? x.load < y.load : (x.a != y.a ? x.a < y.a : x.b < y.b);
  });
}

// Would the exchange put an expert twice on a rank?
bool collide(const Packing& p, int r, const Pair& x, int q, const Pair& y) {
  return p.has(q, x.a) || p.has(q, x.b) || p.has(r, y.a) || p.has(r, y.b);
}

struct TwoForTwo {
  Pair give{}, take{};
  int other = -1;
  double worse = 0;
};

// Both lists ascend: for each pair of r the pairs of q around the difference that evens the two out.
void best_pairs_with(const Packing& p, int r, const std::vector<Pair>& mine, int q, const std::vector<Pair>& theirs,
                     TwoForTwo& best) {
  const double even = (p.load_of(r) - p.load_of(q)) / 2;
  std::size_t j = 0;
  const auto look = [&](const Pair& x, std::size_t k) {
    if (k >= theirs.size()) return;
    const double d = x.load - theirs[k].load, worse = std::max(p.load_of(r) - d, p.load_of(q) + d);
    if (worse < best.worse && !collide(p, r, x, q, theirs[k])) best = {x, theirs[k], q, worse};
  };
  for (const Pair& x : mine) {
    while (j < theirs.size() && theirs[j].load < x.load - even) ++j;
    look(x, j);
    if (j > 0) look(x, j - 1);
  }
}

}  // namespace

bool swap_two(Packing& p) {
  const int r = p.worst_rank();
  std::vector<Pair> mine, theirs;
  pairs_of(p, r, mine);
  TwoForTwo best;
  best.worse = below(p.load_of(r));
  for (int q = 0; q < p.num_ranks(); ++q) {
    if (q == r || (p.load_of(r) + p.load_of(q)) / 2 >= best.worse) continue;
    pairs_of(p, q, theirs);
    best_pairs_with(p, r, mine, q, theirs, best);
  }
  if (best.other < 0) return false;
  p.exchange(r, best.give.a, best.other, best.take.a);
  p.exchange(r, best.give.b, best.other, best.take.b);
  return true;
}

}  // namespace moe
