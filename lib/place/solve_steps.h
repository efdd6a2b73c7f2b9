// Single steps of the local search on the worst rank: each applies the best of its kind after which the worst rank is
// lighter and no rank that it touches is as heavy as that was; false if there is none. Ties go to the lowest index. Not
// here: in which order and how long (solve_search.h), steps that count nodes (solve_traffic.h).
#pragma once

#include "lib/place/packing.h"

namespace moe {

bool swap_one(Packing& p);       // a copy of the worst rank for one of another, or into a free slot
bool swap_two(Packing& p);       // two for two
bool swap_chain(Packing& p);     // one for one, and the rank that is too heavy then exchanges with a third
bool change_copies(Packing& p);  // a slot goes from an expert with copies to another expert

// May the copy leave `from` for `to`?
inline bool may_go(const Packing& p, int expert, int from, int to) {
  return !p.is_pinned(from, expert) && !p.has(to, expert);
}
// What a rank must stay below to be lighter than `load` by more than rounding.
inline double below(double load) { return load * (1 - 1e-9); }

}  // namespace moe
