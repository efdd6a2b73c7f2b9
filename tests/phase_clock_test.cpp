// Marks that tell when a stream came to them, and phases that are told by marks: on the CPU at once, on a GPU (or in the
// stand-in, which does nothing before somebody waits) when the stream was waited for. Not here: the phases of a step
// (cuda_phases_test.sh).
#include "lib/tensor/phase_clock.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>
#include <vector>

#include "lib/base/stopwatch.h"
#include "lib/tensor/arena.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

constexpr std::size_t kBytes = std::size_t{8} << 20;
constexpr double kRounding = 5e-6;  // seconds: a GPU tells half a microsecond

class PhaseClockTest : public ::testing::Test {
 protected:
  void work() { stream.zero(memory.data(), kBytes); }
  double between(const TimeMark& from, const TimeMark& to) { return stream.device().seconds_between(from, to); }

  Stream stream{kernel_device(), 1};
  Arena arena{kBytes, kernel_device()};
  std::span<std::byte> memory = arena.vector<std::byte>(kBytes);
};

TEST_F(PhaseClockTest, MarksTellWhenTheStreamCameToThem) {
  const Stopwatch watch;
  const TimeMark a = stream.time_mark();
  work();
  const TimeMark b = stream.time_mark();
  work();
  const TimeMark c = stream.time_mark();
  if (on_host()) {
    EXPECT_TRUE(std::isnan(between(a, b))) << "a time of work that is not done";
  }
  stream.synchronize();
  const double all = watch.seconds();
  EXPECT_GT(between(a, b), 0);
  EXPECT_GT(between(b, c), 0);
  EXPECT_NEAR(between(a, b) + between(b, c), between(a, c), kRounding);
  EXPECT_LE(between(a, c), all + kRounding);
  const TimeMark d = stream.time_mark();
  if (on_host()) {
    EXPECT_TRUE(std::isnan(between(a, d)));
  }
  stream.synchronize();
  EXPECT_GE(between(c, d), 0);
  for (const TimeMark& m : {a, b, c, d}) stream.device().release_time_mark(m);
}

TEST_F(PhaseClockTest, PhasesAreSummedAndFillTheirTime) {
  PhaseClock clock(stream, 3);
  for (int round = 0; round < 3; ++round) {
    const Stopwatch watch;
    const std::int64_t begin_ns = host_clock_ns();
    for (int i = 0; i < 4; ++i) {
      clock.start();
      work();
      clock.lap(0);
      work();
      clock.lap(2);
      work();  // of no phase
    }
    clock.start();
    stream.synchronize();
    clock.waited();
    const std::vector<double> seconds = clock.take(begin_ns);
    ASSERT_EQ(seconds.size(), 3u);
    EXPECT_GT(seconds[0], 0);
    EXPECT_EQ(seconds[1], 0);
    EXPECT_GT(seconds[2], 0);
    EXPECT_LE(seconds[0] + seconds[2], watch.seconds() + kRounding);
    EXPECT_EQ(clock.take(begin_ns), (std::vector<double>{0, 0, 0})) << "they are forgotten";
  }
}

// The update of a step: nobody waits for it before the end of the next step.
TEST_F(PhaseClockTest, WhatLiesBehindTheWaitIsToldWithTheNext) {
  PhaseClock clock(stream, 2);
  clock.start();
  work();
  clock.lap(0);
  stream.synchronize();
  clock.waited();
  clock.start();
  work();
  clock.lap(1);
  const std::vector<double> first = clock.take(0);
  EXPECT_GT(first[0], 0);
  stream.synchronize();
  clock.waited();
  const std::vector<double> second = clock.take(0);
  if (tests_cuda()) {
    EXPECT_EQ(first[1], 0) << "nobody has waited for it";
    EXPECT_GT(second[1], 0);
  } else {
    EXPECT_GT(first[1], 0) << "the CPU has done it when the call returns";
    EXPECT_EQ(second[1], 0);
  }
}

TEST_F(PhaseClockTest, OnlyWhatLiesBehindATimeCounts) {
  PhaseClock clock(stream, 1);
  const auto lap = [&] {
    clock.start();
    work();
    clock.lap(0);
    stream.synchronize();
    clock.waited();
  };
  lap();
  EXPECT_EQ(clock.take(host_clock_ns() + 1'000'000'000)[0], 0);
  lap();
  const std::int64_t after_ns = host_clock_ns();
  lap();
  lap();
  const std::int64_t end_ns = host_clock_ns();
  const double behind = clock.take(after_ns)[0];
  EXPECT_GT(behind, 0);
  EXPECT_LE(behind, 1e-9 * static_cast<double>(end_ns - after_ns) + kRounding);
}

TEST_F(PhaseClockTest, AWaitThatWasNoneIsAnError) {
  if (!on_host()) GTEST_SKIP() << "a device that works may be done";
  PhaseClock clock(stream, 1);
  clock.start();
  work();
  clock.lap(0);
  clock.waited();
  EXPECT_THROW(clock.take(0), std::logic_error);
  stream.synchronize();
}

}  // namespace
}  // namespace moe
