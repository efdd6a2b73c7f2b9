#include "lib/tensor/phase_clock.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace moe {

PhaseClock::PhaseClock(Stream& stream, std::size_t num_phases) : stream_(stream), num_phases_(num_phases) {}

PhaseClock::~PhaseClock() {
  for (const TimeMark& m : marks_) stream_.device().release_time_mark(m);
}

void PhaseClock::start() { marks_.push_back(stream_.time_mark()); }

void PhaseClock::lap(std::size_t phase) {
  start();
  laps_.push_back({phase, marks_.size() - 2, marks_.size() - 1});
}

void PhaseClock::waited() {
  waited_ns_ = host_clock_ns();
  waited_ = marks_.back();
  num_known_ = laps_.size();
}

std::vector<double> PhaseClock::take(std::int64_t since_ns) {
  if (stream_.is_cpu()) num_known_ = laps_.size();
  std::vector<double> seconds(num_phases_);
  for (std::size_t i = 0; i < num_known_; ++i) seconds[laps_[i].phase] += seconds_of(laps_[i], since_ns);
  forget(num_known_);
  return seconds;
}

double PhaseClock::seconds_between(const TimeMark& from, const TimeMark& to) const {
  const double seconds = stream_.device().seconds_between(from, to);
  if (std::isnan(seconds)) throw std::logic_error("PhaseClock::waited: expected a stream that was waited for");
  return seconds;
}

std::int64_t PhaseClock::host_ns(const TimeMark& mark) const {
  return stream_.is_cpu() ? mark.ns : waited_ns_ - static_cast<std::int64_t>(1e9 * seconds_between(mark, waited_));
}

double PhaseClock::seconds_of(const Lap& lap, std::int64_t since_ns) const {
  const double all = seconds_between(marks_[lap.from], marks_[lap.to]);
  const std::int64_t before_ns = std::max<std::int64_t>(0, since_ns - host_ns(marks_[lap.from]));
  return std::max(0.0, all - 1e-9 * static_cast<double>(before_ns));
}

// Marks of laps that are not known stay, and the one that is open.
void PhaseClock::forget(std::size_t num_laps) {
  laps_.erase(laps_.begin(), laps_.begin() + static_cast<std::ptrdiff_t>(num_laps));
  num_known_ = 0;
  if (marks_.empty()) return;
  const std::size_t first = laps_.empty() ? marks_.size() - 1 : laps_.front().from;
  for (std::size_t i = 0; i < first; ++i) stream_.device().release_time_mark(marks_[i]);
  marks_.erase(marks_.begin(), marks_.begin() + static_cast<std::ptrdiff_t>(first));
  for (Lap& lap : laps_) lap.from -= first, lap.to -= first;
}

}  // namespace moe
