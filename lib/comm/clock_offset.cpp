#include "lib/comm/clock_offset.h"

#include <limits>

#include "lib/base/trace.h"

namespace moe {
namespace {

constexpr const char* kWhat = "clock";

void answer(Comm& comm, int rank, int rounds) {
  for (int i = 0; i < rounds; ++i) {
    char question = 0;
    const RecvPiece receive{rank, &question, 1};
    comm.exchange(kWhat, {}, {&receive, 1});
    const std::int64_t now = trace_clock_ns();
    const SendPiece send{rank, &now, sizeof now};
    comm.exchange(kWhat, {&send, 1}, {});
  }
}

// Rank 0 read its clock somewhere between question and answer: taken as the middle.
ClockOffset ask(Comm& comm) {
  const char question = 0;
  std::int64_t theirs = 0;
  const SendPiece send{0, &question, 1};
  const RecvPiece receive{0, &theirs, sizeof theirs};
  const std::int64_t before = trace_clock_ns();
  comm.exchange(kWhat, {&send, 1}, {});
  comm.exchange(kWhat, {}, {&receive, 1});
  const std::int64_t half = (trace_clock_ns() - before + 1) / 2;
  return {before + half, theirs - (before + half), half};
}

}  // namespace

ClockOffset measure_clock(Comm& comm, int rounds) {
  if (comm.rank() == 0) {
    for (int r = 1; r < comm.size(); ++r) answer(comm, r, rounds);
    return {.at_ns = trace_clock_ns()};
  }
  ClockOffset best{.error_ns = std::numeric_limits<std::int64_t>::max()};
  for (int i = 0; i < rounds; ++i)
    if (const ClockOffset found = ask(comm); found.error_ns < best.error_ns) best = found;
  return best;
}

// Differences alone become doubles: a clock itself has more digits.
std::int64_t on_first_clock(std::int64_t ns, const ClockOffset& a, const ClockOffset& b) {
  if (b.at_ns <= a.at_ns) return ns + a.offset_ns;
  const double part = static_cast<double>(ns - a.at_ns) / static_cast<double>(b.at_ns - a.at_ns);
  return ns + a.offset_ns + static_cast<std::int64_t>(part * static_cast<double>(b.offset_ns - a.offset_ns));
}

}  // namespace moe
