// Local search for the smallest load of the worst rank. Every step makes the worst rank lighter and no rank as heavy as it
// was, so the search ends. Not here: where it begins (solve_start.h), the steps (solve_steps.h).
#pragma once

#include <functional>

#include "lib/place/packing.h"

namespace moe {

struct Effort {
  double target = 0;           // enough if no rank has more load
  int num_kicks = 0;           // times that it begins again from the best, disturbed
  std::function<bool()> stop;  // asked before every step; may be empty
  bool change_copies = true;   // may the numbers of copies change?
};
// Steps until none helps; `after_step` sees the packing after each.
void descend(Packing& p, const Effort& effort, const std::function<void(const Packing&)>& after_step = {});
// The same, then kicks. Leaves the best packing that was seen.
void improve(Packing& p, const Effort& effort);

}  // namespace moe
