// Steps that change how many copies experts have.
#include <algorithm>

#include "lib/place/solve_steps.h"

namespace moe {
namespace {

// On `rank`, a copy of `more` takes the slot of a copy of `less`.
struct Change {
  int rank = -1, less = -1, more = -1;
  double worst = 0;  // load of the heaviest rank that it makes heavier, and of the one that was the worst
};

// The load that each copy has after the change.
double part_after(const Packing& p, int expert, int change) {
  return p.problem().load_E[static_cast<std::size_t>(expert)] / (p.num_copies(expert) + change);
}

void look(const Packing& p, int worst_rank, int rank, int less, int more, Change& best) {
  const double less_part = part_after(p, less, -1), more_part = part_after(p, more, +1);
  const double heavier = less_part - p.copy_load(less), lighter = p.copy_load(more) - more_part;
  double worst = p.load_of(rank) - p.copy_load(less) + more_part;
  if (worst >= best.worst) return;
  for (const int r : p.ranks_of(less)) {
    if (r == rank) continue;
    worst = std::max(worst, p.load_of(r) + heavier - (p.has(r, more) ? lighter : 0));
    if (worst >= best.worst) return;
  }
  if (worst_rank != rank && !p.has(worst_rank, less)) worst = std::max(worst, p.load_of(worst_rank) - lighter);
  if (worst < best.worst) best = {rank, less, more, worst};
}

}  // namespace

// The worst rank gets lighter if one of its experts gets a copy elsewhere, or if it loses its copy of one for a copy of a
// lighter one.
bool change_copies(Packing& p) {
  const int w = p.worst_rank();
  Change best;
  best.worst = below(p.load_of(w));
  for (int f = 0; f < p.num_experts(); ++f) {
    if (p.num_copies(f) < 2) continue;
    for (const int rank : p.ranks_of(f)) {
      if (p.is_pinned(rank, f)) continue;
      if (rank == w) {
        for (int e = 0; e < p.num_experts(); ++e)
          if (!p.has(w, e)) look(p, w, w, f, e, best);
      } else {
        for (const int e : p.experts_of(w))
          if (!p.has(rank, e)) look(p, w, rank, f, e, best);
      }
    }
  }
  if (best.rank < 0) return false;
  p.take(best.rank, best.less);
  p.put(best.rank, best.more);
  return true;
}

}  // namespace moe
