#include "lib/base/trace.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <utility>

namespace moe {

std::int64_t trace_clock_ns() { return host_clock_ns(); }

void Trace::show_on(DeviceRanges ranges) {
  ranges_ = ranges;
  on_ = armed_ || ranges_.push;
}

void Trace::arm(std::size_t max_events) {
  const std::lock_guard lock(mutex_);
  max_events_ = max_events;
  armed_ = true;
  on_ = true;
}

// Room is taken when a span begins, so that one that lies around many others is not lost for their sake.
bool Trace::take_room() {
  if (num_kept_ < max_events_) return ++num_kept_, true;
  ++log_.num_left_out;
  return false;
}

void Trace::follow(Stream* compute, Stream* lane) {
  const std::lock_guard lock(mutex_);
  compute_ = compute, lane_ = lane;
  if (compute) device_ = &compute->device();
}

Stream* Trace::stream_of(TraceRow row) const {
  return row == TraceRow::kCompute ? compute_ : row == TraceRow::kCommunication ? lane_ : nullptr;
}

// A stream that is empty comes to a mark at once: between two readings of the host's clock, of which those count that are
// closest together.
Trace::Anchor Trace::anchor() {
  Stream* compute = nullptr;
  {
    const std::lock_guard lock(mutex_);
    compute = compute_;
  }
  if (!compute) return {};
  compute->synchronize();
  constexpr int kTries = 8;
  Anchor best;
  std::int64_t shortest_ns = 0;
  for (int i = 0; i < kTries; ++i) {
    const std::int64_t before_ns = trace_clock_ns();
    const TimeMark mark = compute->time_mark();
    compute->synchronize();
    const std::int64_t trip_ns = trace_clock_ns() - before_ns;
    if (best.is_set && trip_ns >= shortest_ns) {
      compute->device().release_time_mark(mark);
      continue;
    }
    if (best.is_set) compute->device().release_time_mark(best.mark);
    best = {mark, before_ns + trip_ns / 2, true};
    shortest_ns = trip_ns;
  }
  return best;
}

void Trace::begin_twin(Open& open) {
  Stream* const stream = stream_of(open.event.row);
  open.has_twin = first_.is_set && collecting_ && stream && take_room();
  if (open.has_twin) open.from = stream->time_mark();
}

// In a destructor: a device that fails says so where it is used, and here it has no twin.
void Trace::end_twin(Open& open) {
  if (!std::exchange(open.has_twin, false)) return;
  Stream* const stream = stream_of(open.event.row);
  try {
    if (stream) twins_.push_back({open.event, open.from, stream->time_mark()});
  } catch (const std::exception&) {
    return;
  }
  if (!stream) return release(open.from);
  TraceEvent& event = twins_.back().event;
  event.row = event.row == TraceRow::kCompute ? TraceRow::kGpu : TraceRow::kGpuCommunication;
}

// On the host's clock, on the line between the two anchors. What the device has not begun at the last one is not in the
// window.
void Trace::add_twins(const Anchor& last) {
  const auto seconds_to = [&](const TimeMark& mark) { return device_->seconds_between(first_.mark, mark); };
  const double all = first_.is_set && last.is_set ? seconds_to(last.mark) : 0;
  const double ns_per_second = all > 0 ? static_cast<double>(last.ns - first_.ns) / all : 0;
  const auto at = [&](const TimeMark& mark) {
    return first_.ns + static_cast<std::int64_t>(std::min(seconds_to(mark), all) * ns_per_second);
  };
  for (Twin& twin : twins_)
    if (all > 0 && seconds_to(twin.from) <= all) {
      twin.event.begin_ns = at(twin.from);
      twin.event.end_ns = std::isnan(seconds_to(twin.to)) ? last.ns : at(twin.to);
      log_.events.push_back(twin.event);
    }
}

void Trace::begin() {
  const Anchor first = anchor();
  const std::lock_guard lock(mutex_);
  first_ = first;
  log_ = {.events = {}, .num_left_out = 0, .begin_ns = trace_clock_ns(), .end_ns = 0};
  num_kept_ = 0;
  collecting_ = true;
  for (Open& o : open_) {
    o.kept = take_room();
    o.event.begin_ns = log_.begin_ns;
  }
}

TraceLog Trace::end() {
  const Anchor last = anchor();
  const std::lock_guard lock(mutex_);
  log_.end_ns = trace_clock_ns();
  for (Open& o : open_) {
    end_twin(o);
    o.event.end_ns = log_.end_ns;
    if (o.kept) log_.events.push_back(o.event);
  }
  add_twins(last);
  if (last.is_set) release(last.mark);
  forget();
  std::stable_sort(log_.events.begin(), log_.events.end(), [](const TraceEvent& a, const TraceEvent& b) {
    return std::pair(a.begin_ns, -a.end_ns) < std::pair(b.begin_ns, -b.end_ns);
  });
  return std::exchange(log_, {});
}

void Trace::disarm() {
  const std::lock_guard lock(mutex_);
  forget();
  log_ = {};
}

void Trace::forget() {
  for (const Open& o : open_)
    if (o.has_twin) release(o.from);
  open_.clear();
  for (const Twin& twin : twins_) release(twin.from), release(twin.to);
  twins_.clear();
  if (first_.is_set) release(first_.mark);
  first_ = {};
  armed_ = collecting_ = false;
  on_ = ranges_.push != nullptr;
}

// 0: not known here.
std::uint64_t Trace::open(TraceRow row, const TraceLabel& label) {
  if (ranges_.push) ranges_.push(label.name);
  const std::lock_guard lock(mutex_);
  if (!armed_) return 0;
  TraceEvent event{.name = label.name, .row = row, .layer = label.layer, .step = step_.load(std::memory_order_relaxed)};
  label.of.copy(event.of, kTraceOfChars);
  event.begin_ns = trace_clock_ns();
  open_.push_back({next_id_, collecting_ && take_room(), event});
  begin_twin(open_.back());
  return next_id_++;
}

// A span that end() has closed is known no more.
void Trace::close(std::uint64_t id) {
  const std::int64_t now = trace_clock_ns();
  if (ranges_.pop) ranges_.pop();
  const std::lock_guard lock(mutex_);
  const auto last = std::find_if(open_.rbegin(), open_.rend(), [id](const Open& o) { return o.id == id; });
  if (last == open_.rend()) return;
  if (last->kept) {
    last->event.end_ns = now;
    log_.events.push_back(last->event);
  }
  end_twin(*last);
  open_.erase(std::next(last).base());
}

}  // namespace moe
