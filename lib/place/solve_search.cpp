#include "lib/place/solve_search.h"

#include "lib/base/rng.h"
#include "lib/place/solve_steps.h"

namespace moe {
namespace {

bool step(Packing& p, const Effort& effort) {
  return swap_one(p) || swap_two(p) || (effort.change_copies && change_copies(p)) || swap_chain(p);
}

bool enough(const Packing& p, const Effort& effort) {
  return p.max_load() <= effort.target || (effort.stop && effort.stop());
}

// Exchanges copies of the worst rank and of another, chosen by lot, with copies of ranks chosen by lot.
void kick(Packing& p, const Rng& rng, std::uint64_t& draw) {
  const auto lot = [&](std::size_t n) { return static_cast<std::size_t>(rng.bits(draw++) % n); };
  const auto num_ranks = static_cast<std::size_t>(p.num_ranks());
  for (int i = 0; i < 3; ++i) {
    const int r = i == 0 ? p.worst_rank() : static_cast<int>(lot(num_ranks)), q = static_cast<int>(lot(num_ranks));
    if (r == q || p.experts_of(r).empty() || p.experts_of(q).empty()) continue;
    const int e = p.experts_of(r)[lot(p.experts_of(r).size())], f = p.experts_of(q)[lot(p.experts_of(q).size())];
    if (may_go(p, e, r, q) && may_go(p, f, q, r)) p.exchange(r, e, q, f);
  }
}

}  // namespace

void descend(Packing& p, const Effort& effort, const std::function<void(const Packing&)>& after_step) {
  while (!enough(p, effort) && step(p, effort))
    if (after_step) after_step(p);
}

void improve(Packing& p, const Effort& effort) {
  descend(p, effort);
  const Rng rng(0, "place.solve");
  std::uint64_t draw = 0;
  for (int i = 0; i < effort.num_kicks && !enough(p, effort); ++i) {
    Packing other = p;
    kick(other, rng, draw);
    descend(other, effort);
    if (other.max_load() < p.max_load()) p = std::move(other);
  }
}

}  // namespace moe
