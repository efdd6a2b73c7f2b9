#include "lib/comm/patience.h"

#include <sched.h>
#include <time.h>

#include <algorithm>

namespace moe {
namespace {

// Looks before a wait sleeps, and how long it sleeps at first and at last between looks: while nobody waits for the lane the
// processor belongs to whoever computes; and a rank that has waited long leaves it to those it waits for, where ranks share
// processors.
struct Patience {
  int looks;
  long first_sleep_ns, last_sleep_ns;
};
constexpr Patience kUnderCompute{4, 50'000, 300'000}, kAwaited{300, 20'000, 20'000};

}  // namespace

void rest_between_looks(int looks, bool awaited) {
  const Patience& patience = awaited ? kAwaited : kUnderCompute;
  if (looks < patience.looks) {
    sched_yield();
    return;
  }
  const timespec pause{0, std::min(patience.last_sleep_ns, patience.first_sleep_ns * (1 + (looks - patience.looks) / 8))};
  nanosleep(&pause, nullptr);
}

}  // namespace moe
