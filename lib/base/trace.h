// What a rank did and when: spans with a name, on rows (one for each thread of work), collected for a window of steps. Off,
// a span costs a branch. On a GPU, which does later what a thread puts into its queues, a span has a twin on a row of the
// GPU, from marks in the queue. A device may show the same spans in its own profiler (NVTX). One Trace per rank
// (World::trace()).
// Memory is bounded: after max_events spans are counted and left out. Not here: the clocks of other ranks
// (lib/comm/clock_offset.h), the file (lib/run/timeline.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <string_view>
#include <vector>

#include "kernels/device.h"

namespace moe {

// Spans of a row nest or come one after the other: one thread at a time works on it.
enum class TraceRow : std::uint8_t { kCompute, kCommunication, kSaving, kGpu, kGpuCommunication };
inline constexpr std::size_t kNumTraceRows = 5, kNumHostRows = 3;
inline constexpr const char* kTraceRowNames[kNumTraceRows] = {"compute", "communication", "saving", "GPU",
                                                              "GPU communication"};

// What a span is called.
struct TraceLabel {
  const char* name;          // a string literal
  int layer = -1;            // -1: of none
  std::string_view of = {};  // what it is done to; its first kTraceOfChars are copied when the span begins
};
inline constexpr std::size_t kTraceOfChars = 31;

struct TraceEvent {
  const char* name = "";
  TraceRow row{};
  int layer = -1;
  std::int64_t step = -1;                 // that was set when it began; -1: none was
  std::int64_t begin_ns = 0, end_ns = 0;  // of trace_clock_ns()
  char of[kTraceOfChars + 1] = {};
};

struct TraceLog {
  std::vector<TraceEvent> events;  // by beginning; what lies around others before them
  std::int64_t num_left_out = 0;
  std::int64_t begin_ns = 0, end_ns = 0;
};

// Ranges of a device's profiler, as nvtxRangePushA and nvtxRangePop: called for every span by the thread that works in it.
struct DeviceRanges {
  void (*push)(const char* name) = nullptr;
  void (*pop)() = nullptr;
};

std::int64_t trace_clock_ns();  // steady; its zero is the host's own affair

class Trace {
 public:
  // Before the first span; both functions or none. Shown from then on, whether events are collected or not.
  void show_on(DeviceRanges ranges);
  // Spans of kCompute have twins in the stream `compute`, those of kCommunication in `lane`, of one GPU; begin() and end()
  // wait for `compute`. nullptr, nullptr: no more.
  void follow(Stream* compute, Stream* lane);
  // From here on it is known which spans are open, so that those that began before the window are in it, from its beginning.
  void arm(std::size_t max_events);
  void begin();    // of the window; armed before
  TraceLog end();  // of the window: what is open ends there. Afterwards it is not armed
  void disarm();   // the same, and forgets it; waits for nothing
  void set_step(std::int64_t step) { step_.store(step, std::memory_order_relaxed); }
  bool is_on() const { return on_.load(std::memory_order_relaxed); }

 private:
  friend class TraceSpan;
  struct Open {
    std::uint64_t id;
    bool kept;
    TraceEvent event;
    bool has_twin = false;
    TimeMark from = {};  // of the twin
  };
  struct Twin {
    TraceEvent event;
    TimeMark from, to;
  };
  struct Anchor {  // the device's clock and the host's at one time
    TimeMark mark;
    std::int64_t ns = 0;
    bool is_set = false;
  };
  std::uint64_t open(TraceRow row, const TraceLabel& label);
  void close(std::uint64_t id);
  bool take_room();
  Stream* stream_of(TraceRow row) const;
  Anchor anchor();
  void begin_twin(Open& open);
  void end_twin(Open& open);
  void add_twins(const Anchor& last);
  void release(const TimeMark& mark) const { device_->release_time_mark(mark); }
  void forget();

  std::atomic<bool> on_{false};  // armed, or shown on a device
  std::atomic<std::int64_t> step_{-1};
  DeviceRanges ranges_;
  std::mutex mutex_;  // of what follows
  bool armed_ = false, collecting_ = false;
  std::uint64_t next_id_ = 1;
  std::size_t max_events_ = 0, num_kept_ = 0;
  std::vector<Open> open_;
  TraceLog log_;
  Stream *compute_ = nullptr, *lane_ = nullptr;
  const Device* device_ = nullptr;  // that was followed last
  std::vector<Twin> twins_;
  Anchor first_;
};

// From here to the end of the scope.
class TraceSpan {
 public:
  TraceSpan(Trace* trace, TraceRow row, const TraceLabel& label) : trace_(trace && trace->is_on() ? trace : nullptr) {
    if (trace_) id_ = trace_->open(row, label);
  }
  TraceSpan(Trace& trace, TraceRow row, const TraceLabel& label) : TraceSpan(&trace, row, label) {}
  ~TraceSpan() {
    if (trace_) trace_->close(id_);
  }
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;

 private:
  Trace* trace_;
  std::uint64_t id_ = 0;
};

}  // namespace moe
