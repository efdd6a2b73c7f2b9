#include "lib/place/solve_start.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <string>

#include "lib/base/error.h"

namespace moe {
namespace {

std::size_t at(int i) { return static_cast<std::size_t>(i); }

// A rank may take a copy up to its minimum, and beyond it from the `spare` slots that no minimum asks for.
bool has_room(const Packing& p, int r, int spare) {
  return p.num_free(r) > 0 && (spare > 0 || static_cast<int>(p.experts_of(r).size()) < p.problem().min_slots_R[at(r)]);
}

int spare_slots(const Packing& p) {
  const LayerProblem& q = p.problem();
  int spare = q.num_slots;
  for (int r = 0; r < p.num_ranks(); ++r) spare -= std::max(q.min_slots_R[at(r)], static_cast<int>(p.experts_of(r).size()));
  return spare;
}

int lightest_rank(const Packing& p, int expert, int spare) {
  int best = -1;
  for (int r = 0; r < p.num_ranks(); ++r)
    if (!p.has(r, expert) && has_room(p, r, spare) && (best < 0 || p.load_of(r) < p.load_of(best))) best = r;
  return best;
}

// All ranks with room have this expert: one of their slots is filled from a full rank q instead, which then has room.
bool make_room(Packing& p, int expert, int spare) {
  for (int r = 0; r < p.num_ranks(); ++r) {
    if (!has_room(p, r, spare)) continue;
    for (int q = 0; q < p.num_ranks(); ++q) {
      if (q == r || p.has(q, expert)) continue;
      for (const int f : p.experts_of(q))
        if (!p.has(r, f) && !p.is_pinned(q, f)) {
          p.move(f, q, r);
          return true;
        }
    }
  }
  return false;
}

void place_copy(Packing& p, int expert) {
  const int spare = spare_slots(p);
  int r = lightest_rank(p, expert, spare);
  if (r < 0 && make_room(p, expert, spare)) r = lightest_rank(p, expert, spare_slots(p));
  if (r < 0)
    throw Error(Exit::kUsage,
                "no rank has room for another copy of expert " + std::to_string(expert) + " beside those it must keep",
                "fewer replicas, fewer pins or more slots per rank");
  p.put(r, expert);
}

}  // namespace

std::vector<int> water_fill(const std::vector<double>& load_E, const std::vector<int>& least_E, int num_slots,
                            int most_copies) {
  std::vector<int> copies(load_E.size());
  for (std::size_t e = 0; e < copies.size(); ++e) copies[e] = std::max(1, least_E.empty() ? 1 : least_E[e]);
  using Part = std::pair<double, int>;  // load per copy, minus the index
  std::priority_queue<Part> heap;
  const auto push = [&](int e) {
    if (copies[at(e)] < most_copies) heap.emplace(load_E[at(e)] / copies[at(e)], -e);
  };
  for (std::size_t e = 0; e < copies.size(); ++e) push(static_cast<int>(e));
  for (int n = std::accumulate(copies.begin(), copies.end(), 0); n < num_slots && !heap.empty(); ++n) {
    const int e = -heap.top().second;
    heap.pop();
    ++copies[at(e)];
    push(e);
  }
  return copies;
}

Packing longest_first(const LayerProblem& problem, const std::vector<int>& num_copies_E) {
  Packing p(problem);
  for (const auto& [rank, expert] : problem.pins)
    if (!p.has(rank, expert)) p.put(rank, expert);
  std::vector<int> order(problem.load_E.size());
  std::iota(order.begin(), order.end(), 0);
  const auto part = [&](int e) { return problem.load_E[at(e)] / num_copies_E[at(e)]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return part(a) > part(b); });
  for (const int e : order)
    while (p.num_copies(e) < num_copies_E[at(e)]) place_copy(p, e);
  return p;
}

namespace {

int num_placed(const Packing& p) {
  int n = 0;
  for (int r = 0; r < p.num_ranks(); ++r) n += static_cast<int>(p.experts_of(r).size());
  return n;
}

// The copy whose load burdens the others least; its rank, the one with the most load. False if every copy must stay.
bool take_least(Packing& p) {
  int best = -1, from = -1;
  const auto burden = [&](int e) { return p.problem().load_E[at(e)] / (p.num_copies(e) - 1); };
  for (int e = 0; e < p.num_experts(); ++e) {
    if (p.num_copies(e) < 2 || (best >= 0 && burden(e) >= burden(best))) continue;
    int worst = -1;
    for (const int r : p.ranks_of(e))
      if (!p.is_pinned(r, e) && (worst < 0 || p.load_of(r) > p.load_of(worst))) worst = r;
    if (worst >= 0) best = e, from = worst;
  }
  if (best >= 0) p.take(from, best);
  return best >= 0;
}

// Ranks below their minimum take copies from those with the most to spare.
void fill_minima(Packing& p) {
  for (int r = 0; r < p.num_ranks(); ++r)
    while (static_cast<int>(p.experts_of(r).size()) < p.problem().min_slots_R[at(r)]) {
      int from = -1, expert = -1;
      for (int q = 0; q < p.num_ranks(); ++q)
        if (p.may_lose(q) && (from < 0 || p.load_of(q) > p.load_of(from)))
          for (const int e : p.experts_of(q))
            if (!p.has(r, e) && !p.is_pinned(q, e)) from = q, expert = e;
      if (from < 0)
        throw Error(Exit::kUsage,
                    "rank " + std::to_string(r) + " can not be filled to " + std::to_string(p.problem().min_slots_R[at(r)]) +
                        " slots",
                    "fewer pins");
      p.move(expert, from, r);
    }
}

}  // namespace

Packing from_old(const LayerProblem& problem) {
  Packing p(problem);
  for (const auto& [rank, expert] : problem.pins)
    if (!p.has(rank, expert)) p.put(rank, expert);
  for (int r = 0; r < problem.old.num_ranks(); ++r)
    for (const int e : problem.old.rank2experts[at(r)])
      if (!p.has(r, e) && p.num_free(r) > 0) p.put(r, e);
  std::vector<int> missing;
  for (int e = 0; e < p.num_experts(); ++e)
    if (p.num_copies(e) == 0) missing.push_back(e);
  while (num_placed(p) + static_cast<int>(missing.size()) > problem.num_slots && take_least(p)) {
  }
  for (const int e : missing) place_copy(p, e);
  std::vector<int> least(problem.load_E.size());
  for (int e = 0; e < p.num_experts(); ++e) least[at(e)] = p.num_copies(e);
  const std::vector<int> copies = water_fill(problem.load_E, least, problem.num_slots, p.num_ranks());
  for (int e = 0; e < p.num_experts(); ++e)
    while (p.num_copies(e) < copies[at(e)]) place_copy(p, e);
  fill_minima(p);
  return p;
}

}  // namespace moe
