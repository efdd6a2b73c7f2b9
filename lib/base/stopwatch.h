// Wall time in seconds.
#pragma once

#include <chrono>

namespace moe {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }
  // Seconds since the last lap (or the start), and starts the next.
  double lap() {
    const double s = seconds();
    start_ = Clock::now();
    return s;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace moe
