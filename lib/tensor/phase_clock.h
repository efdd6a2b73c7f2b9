// How long the phases of a step take where the work is done: on a GPU the host has gone on long before. Marks in the stream
// tell it (kernels/device.h), which nobody waits for: they are read when the stream was waited for anyway, and what lies
// behind that wait is told with the next one. Not here: communication (lib/comm/lane.h), single kernels
// (lib/run/kernel_clock.h).
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/device.h"

namespace moe {

class PhaseClock {
 public:
  PhaseClock(Stream& stream, std::size_t num_phases);
  ~PhaseClock();
  PhaseClock(const PhaseClock&) = delete;
  PhaseClock& operator=(const PhaseClock&) = delete;

  void start();                 // a lap begins where the stream is now
  void lap(std::size_t phase);  // it ends here and belongs to the phase; the next begins. After start()
  // Called behind a wait for the stream (Stream::synchronize()): laps up to here are known. Those of the CPU always are. The
  // host's clock now is taken for the time of the last mark, so one start() close to the wait makes it exact.
  void waited();
  // Seconds of each phase in the laps that are known, which are then forgotten; of a lap only what lies behind since_ns, of
  // host_clock_ns().
  std::vector<double> take(std::int64_t since_ns);

 private:
  struct Lap {
    std::size_t phase, from, to;  // marks
  };
  double seconds_of(const Lap& lap, std::int64_t since_ns) const;
  double seconds_between(const TimeMark& from, const TimeMark& to) const;
  std::int64_t host_ns(const TimeMark& mark) const;  // when the stream came there
  void forget(std::size_t num_laps);

  Stream& stream_;
  std::size_t num_phases_;
  std::vector<TimeMark> marks_;  // by their making; the last one is where the lap begins that is open
  std::vector<Lap> laps_;
  std::size_t num_known_ = 0;  // of laps_
  TimeMark waited_;            // a copy of the last mark before waited(), at ...
  std::int64_t waited_ns_ = 0;
};

}  // namespace moe
