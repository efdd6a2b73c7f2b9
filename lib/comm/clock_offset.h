// How the clock of a rank differs from that of rank 0, measured with messages: half of the shortest round trip bounds the
// error.
#pragma once

#include <cstdint>

#include "lib/comm/comm.h"

namespace moe {

struct ClockOffset {
  std::int64_t at_ns = 0;      // of this rank's clock, when it was measured
  std::int64_t offset_ns = 0;  // rank 0's clock - this one's
  std::int64_t error_ns = 0;   // at most so far off
};

// Of trace_clock_ns(). A collective call: rank 0 answers one rank after the other, `rounds` times each.
ClockOffset measure_clock(Comm& comm, int rounds = 16);

// A time of this rank on rank 0's clock, by a straight line through two measurements: clocks of two hosts drift apart by
// microseconds in a second.
std::int64_t on_first_clock(std::int64_t ns, const ClockOffset& a, const ClockOffset& b);

}  // namespace moe
