// What a rank collects of itself: the window, bounded memory, spans that are open at its ends, threads, ranges of a device;
// and the clocks of ranks. Not here: the file (timeline_test.cpp).
#include "lib/base/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "lib/comm/clock_offset.h"
#include "lib/comm/lane.h"
#include "lib/comm/thread_comm.h"

namespace moe {
namespace {

using ::testing::ElementsAre;

constexpr TraceRow kRow = TraceRow::kCompute;

std::vector<std::string> names_in(const TraceLog& log) {
  std::vector<std::string> names;
  for (const TraceEvent& e : log.events) names.emplace_back(e.name);
  return names;
}

std::vector<std::string> names_of(const TraceLog& log, TraceRow row) {
  std::vector<std::string> names;
  for (const TraceEvent& e : log.events)
    if (e.row == row) names.emplace_back(e.name);
  return names;
}

TraceEvent event_of(const TraceLog& log, TraceRow row, const std::string& name) {
  for (const TraceEvent& e : log.events)
    if (e.row == row && e.name == name) return e;
  return {};
}

TEST(Trace, OffItKnowsNothing) {
  Trace trace;
  EXPECT_FALSE(trace.is_on());
  { const TraceSpan span(trace, kRow, {"before"}); }
  { const TraceSpan span(nullptr, kRow, {"of nobody"}); }
  trace.arm(10);
  EXPECT_TRUE(trace.is_on());
  trace.begin();
  EXPECT_TRUE(trace.end().events.empty());
  EXPECT_FALSE(trace.is_on());
}

TEST(Trace, SpansOfTheWindowInTheOrderOfTheirBeginning) {
  Trace trace;
  trace.arm(10);
  { const TraceSpan span(trace, kRow, {"before"}); }
  trace.begin();
  trace.set_step(7);
  {
    const TraceSpan outer(trace, kRow, {"outer"});
    { const TraceSpan inner(trace, TraceRow::kSaving, {.name = "inner", .layer = 3, .of = "layers.3.experts"}); }
    const TraceSpan last(trace, kRow, {.name = "last", .of = std::string(100, 'x')});
  }
  const TraceLog log = trace.end();
  ASSERT_THAT(names_in(log), ElementsAre("outer", "inner", "last"));
  const TraceEvent &outer = log.events[0], &inner = log.events[1];
  EXPECT_EQ(outer.step, 7);
  EXPECT_EQ(outer.layer, -1);
  EXPECT_EQ(inner.layer, 3);
  EXPECT_EQ(inner.row, TraceRow::kSaving);
  EXPECT_STREQ(inner.of, "layers.3.experts");
  EXPECT_EQ(log.events[2].of, std::string(kTraceOfChars, 'x'));
  EXPECT_LE(log.begin_ns, outer.begin_ns);
  EXPECT_LE(outer.begin_ns, inner.begin_ns);
  EXPECT_LE(inner.begin_ns, inner.end_ns);
  EXPECT_LE(inner.end_ns, outer.end_ns);
  EXPECT_LE(outer.end_ns, log.end_ns);
  EXPECT_EQ(log.num_left_out, 0);
}

TEST(Trace, WhatIsOpenAtAnEndOfTheWindowIsCutThere) {
  Trace trace;
  trace.arm(10);
  std::optional<TraceSpan> before, behind;
  before.emplace(trace, TraceRow::kSaving, TraceLabel{"before"});
  trace.begin();
  behind.emplace(trace, kRow, TraceLabel{"behind"});
  before.reset();
  const TraceLog log = trace.end();
  behind.reset();  // known no more
  ASSERT_THAT(names_in(log), ElementsAre("before", "behind"));
  EXPECT_EQ(log.events[0].begin_ns, log.begin_ns);
  EXPECT_LT(log.events[0].end_ns, log.end_ns);
  EXPECT_EQ(log.events[1].end_ns, log.end_ns);
}

// The span around them all began first, so it stays.
TEST(Trace, MemoryIsBoundedAndWhatIsLeftOutCounted) {
  Trace trace;
  trace.arm(5);
  trace.begin();
  {
    const TraceSpan outer(trace, kRow, {"outer"});
    for (int i = 0; i < 20; ++i) const TraceSpan span(trace, kRow, {"many"});
  }
  const TraceLog log = trace.end();
  EXPECT_THAT(names_in(log), ElementsAre("outer", "many", "many", "many", "many"));
  EXPECT_EQ(log.num_left_out, 16);
}

TEST(Trace, ThreadsMayCollectAtOnce) {
  Trace trace;
  trace.arm(5000);
  trace.begin();
  const auto many = [&trace](TraceRow row) {
    for (int i = 0; i < 2000; ++i) const TraceSpan span(trace, row, {"x"});
  };
  std::thread other([&] { many(TraceRow::kCommunication); });
  many(kRow);
  other.join();
  const TraceLog log = trace.end();
  EXPECT_EQ(log.events.size(), 4000u);
  EXPECT_EQ(log.num_left_out, 0);
}

// What a device has seen of this thread.
thread_local std::vector<std::string> ranges;
thread_local std::size_t depth = 0;

TEST(Trace, ADeviceIsShownEverySpanOfTheThreadThatWorks) {
  ranges.clear();
  Trace trace;
  trace.show_on({.push = [](const char* name) { ranges.emplace_back(name), ++depth; }, .pop = [] { --depth; }});
  {
    const TraceSpan outer(trace, kRow, {"outer"});
    const TraceSpan inner(trace, kRow, {"inner"});
    EXPECT_EQ(depth, 2u);
    std::thread([&] {
      const TraceSpan elsewhere(trace, TraceRow::kSaving, {"elsewhere"});
      EXPECT_THAT(ranges, ElementsAre("elsewhere"));
    }).join();
  }
  EXPECT_EQ(depth, 0u);
  EXPECT_THAT(ranges, ElementsAre("outer", "inner"));
  trace.arm(10);
  trace.begin();
  { const TraceSpan span(trace, kRow, {"both"}); }
  EXPECT_EQ(trace.end().events.size(), 1u);
  EXPECT_TRUE(trace.is_on());
  EXPECT_THAT(ranges, ElementsAre("outer", "inner", "both"));
}

// Of a device that does at once what is put into its streams. One that does it later: cuda_phases_test.sh.
TEST(Trace, SpansOfAStreamThatIsFollowedHaveTwins) {
  Stream compute(1), lane(1);
  Trace trace;
  trace.follow(&compute, &lane);
  trace.arm(100);
  std::optional<TraceSpan> before, open;
  before.emplace(trace, kRow, TraceLabel{"before"});
  trace.begin();
  trace.set_step(3);
  before.reset();
  {
    const TraceSpan outer(trace, kRow, {.name = "outer", .layer = 2});
    { const TraceSpan inner(trace, kRow, {.name = "inner", .of = "it"}); }
    const TraceSpan task(trace, TraceRow::kCommunication, {"task"});
    const TraceSpan save(trace, TraceRow::kSaving, {"save"});
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  open.emplace(trace, kRow, TraceLabel{"open"});
  const TraceLog log = trace.end();
  open.reset();
  EXPECT_THAT(names_of(log, TraceRow::kCompute), ElementsAre("before", "outer", "inner", "open"));
  EXPECT_THAT(names_of(log, TraceRow::kGpu), ElementsAre("outer", "inner", "open")) << "what began in the window";
  EXPECT_THAT(names_of(log, TraceRow::kGpuCommunication), ElementsAre("task"));
  const TraceEvent outer = event_of(log, TraceRow::kGpu, "outer"), inner = event_of(log, TraceRow::kGpu, "inner"),
                   task = event_of(log, TraceRow::kGpuCommunication, "task");
  EXPECT_EQ(outer.step, 3);
  EXPECT_EQ(outer.layer, 2);
  EXPECT_STREQ(inner.of, "it");
  EXPECT_LE(outer.begin_ns, inner.begin_ns);
  EXPECT_LE(inner.begin_ns, inner.end_ns);
  EXPECT_LE(inner.end_ns, outer.end_ns);
  EXPECT_GE(task.end_ns - task.begin_ns, 1'000'000);
  EXPECT_LE(event_of(log, TraceRow::kGpu, "open").end_ns, log.end_ns);

  // A window that is given up, and one behind it.
  trace.arm(3);
  trace.begin();
  { const TraceSpan span(trace, kRow, {"given up"}); }
  trace.disarm();
  EXPECT_FALSE(trace.is_on());
  trace.arm(3);
  trace.begin();
  for (int i = 0; i < 3; ++i) const TraceSpan span(trace, kRow, {"span"});
  const TraceLog bounded = trace.end();
  EXPECT_THAT(names_of(bounded, TraceRow::kCompute), ElementsAre("span", "span"));
  EXPECT_THAT(names_of(bounded, TraceRow::kGpu), ElementsAre("span")) << "twins count";
  EXPECT_EQ(bounded.num_left_out, 3);
  trace.follow(nullptr, nullptr);
  trace.arm(10);
  trace.begin();
  { const TraceSpan span(trace, kRow, {"alone"}); }
  EXPECT_THAT(names_in(trace.end()), ElementsAre("alone"));
}

// Tasks are on the lane's row, waiting for them on the caller's; that is what the lane books as exposed.
TEST(TraceOfALane, TasksAndWaits) {
  for (const bool threaded : {false, true}) {
    Trace trace;
    CommLane lane(threaded, &trace);
    trace.arm(100);
    trace.begin();
    lane.call("long", [] { std::this_thread::sleep_for(std::chrono::milliseconds(5)); });
    lane.wait(lane.submit("short", [] {}, {.name = "shown", .layer = 2}));
    const auto times = lane.take_times();
    const TraceLog log = trace.end();
    std::vector<std::string> tasks;
    double waited_seconds = 0;
    for (const TraceEvent& e : log.events)
      if (e.row == TraceRow::kCommunication)
        tasks.emplace_back(e.name);
      else if (std::string(e.name) == "wait" && std::string(e.of) == "long")
        waited_seconds += 1e-9 * static_cast<double>(e.end_ns - e.begin_ns);
    EXPECT_THAT(tasks, ElementsAre("long", "shown"));
    EXPECT_GE(waited_seconds, times.at("long").exposed) << "threaded " << threaded;
    EXPECT_EQ(times.count("short"), 1u);
  }
}

// Threads have one clock, so the measured offset is the error.
TEST(Clock, TheErrorIsWithinItsBound) {
  run_thread_ranks(3, [](std::unique_ptr<Comm> comm) {
    const ClockOffset found = measure_clock(*comm, 8);
    EXPECT_LE(std::abs(found.offset_ns), found.error_ns);
    EXPECT_EQ(comm->rank() == 0, found.error_ns == 0);
  });
}

TEST(Clock, BetweenTwoMeasurementsALine) {
  constexpr std::int64_t kFar = 1'234'567'890'123'456'789;
  const ClockOffset a{.at_ns = 1000, .offset_ns = kFar}, b{.at_ns = 3000, .offset_ns = kFar + 100};
  EXPECT_EQ(on_first_clock(1000, a, b), kFar + 1000);
  EXPECT_EQ(on_first_clock(2000, a, b), kFar + 2050);
  EXPECT_EQ(on_first_clock(3000, a, b), kFar + 3100);
  EXPECT_EQ(on_first_clock(5000, a, a), kFar + 5000);
}

}  // namespace
}  // namespace moe
