#include "lib/base/trace.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace moe {

std::int64_t trace_clock_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

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

void Trace::begin() {
  const std::lock_guard lock(mutex_);
  log_ = {.events = {}, .num_left_out = 0, .begin_ns = trace_clock_ns(), .end_ns = 0};
  num_kept_ = 0;
  collecting_ = true;
  for (Open& o : open_) {
    o.kept = take_room();
    o.event.begin_ns = log_.begin_ns;
  }
}

TraceLog Trace::end() {
  const std::lock_guard lock(mutex_);
  log_.end_ns = trace_clock_ns();
  for (Open& o : open_) {
    o.event.end_ns = log_.end_ns;
    if (o.kept) log_.events.push_back(o.event);
  }
  open_.clear();
  armed_ = collecting_ = false;
  on_ = ranges_.push != nullptr;
  std::stable_sort(log_.events.begin(), log_.events.end(), [](const TraceEvent& a, const TraceEvent& b) {
    return std::pair(a.begin_ns, -a.end_ns) < std::pair(b.begin_ns, -b.end_ns);
  });
  return std::exchange(log_, {});
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
  open_.erase(std::next(last).base());
}

}  // namespace moe
