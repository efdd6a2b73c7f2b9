// The communication lane: order, tickets, failures, times; with a thread and without.
#include "lib/comm/lane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "lib/base/error.h"

namespace moe {
namespace {

class Lane : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(, Lane, ::testing::Bool(), [](const auto& info) { return info.param ? "Thread" : "NoThread"; });

void nap(int ms) { std::this_thread::sleep_for(std::chrono::milliseconds(ms)); }

TEST_P(Lane, TasksRunInOrder) {
  CommLane lane(GetParam());
  std::vector<int> seen;
  CommLane::Ticket last = 0;
  for (int i = 0; i < 1000; ++i) last = lane.submit("push", [&seen, i] { seen.push_back(i); });
  lane.wait(last);
  ASSERT_EQ(seen.size(), 1000u);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(seen[static_cast<std::size_t>(i)], i);
  lane.wait(1);  // long done
  lane.wait_all();
}

TEST_P(Lane, WaitIsForItsTicketAndAllBefore) {
  CommLane lane(GetParam());
  std::atomic<int> done{0};
  const auto first = lane.submit("nap", [&] {
    nap(20);
    ++done;
  });
  const auto second = lane.submit("count", [&] { ++done; });
  lane.wait(first);
  EXPECT_GE(done, 1);
  lane.wait(second);
  EXPECT_EQ(done, 2);
}

TEST(LaneThread, DestructionFinishesWhatWasSubmitted) {
  int done = 0;
  {
    CommLane lane(true);
    for (int i = 0; i < 50; ++i) lane.submit("count", [&] { ++done; });
  }
  EXPECT_EQ(done, 50);
}

TEST(LaneThread, FailureReachesEveryWaitAndSkipsWhatFollows) {
  CommLane lane(true);
  bool ran = false;
  lane.submit("fail", [] { throw Error(Exit::kBadInput, "broken"); });
  const auto after = lane.submit("after", [&] { ran = true; });
  for (int i = 0; i < 2; ++i) EXPECT_THROW(lane.wait(after), Error);
  EXPECT_THROW(lane.wait_all(), Error);
  EXPECT_THROW(lane.call("again", [&] { ran = true; }), Error);
  EXPECT_FALSE(ran);
}

TEST(LaneThread, AFailureWakesWhoWaitsForALaterTask) {
  CommLane lane(true);
  lane.submit("nap", [] { nap(20); });
  lane.submit("fail", [] { throw Error(Exit::kBadInput, "broken"); });
  const auto later = lane.submit("later", [] { nap(1); });
  EXPECT_THROW(lane.wait(later), Error);
}

TEST(LaneAlone, FailureIsThrownWhereItIsSubmitted) {
  CommLane lane(false);
  EXPECT_THROW(lane.submit("fail", [] { throw Error(Exit::kBadInput, "broken"); }), Error);
}

TEST(LaneThread, ACaptureMayUseTheLaneInItsDestructor) {
  CommLane lane(true);
  struct Last {
    CommLane& lane;
    ~Last() {
      lane.submit("from a destructor", [] {});
    }
  };
  auto last = std::make_shared<Last>(lane);
  const auto ticket = lane.submit("hold", [held = last] { (void)held; });
  last.reset();
  lane.wait(ticket);
  lane.wait_all();
}

TEST_P(Lane, TimesAreBookedByName) {
  CommLane lane(GetParam());
  lane.call("long", [] { nap(30); });
  lane.submit("hidden", [] { nap(5); });
  nap(15);
  lane.wait_all();
  const auto times = lane.take_times();
  EXPECT_GE(times.at("long").busy, 0.03);
  EXPECT_GE(times.at("long").exposed, 0.02);
  EXPECT_LE(times.at("long").exposed, times.at("long").busy + 0.5);
  EXPECT_GE(times.at("hidden").busy, 0.005);
  EXPECT_TRUE(lane.take_times().empty());
}

TEST(LaneThread, ItIsKnownWhoWaits) {
  CommLane lane(true);
  EXPECT_EQ(lane.num_waiting(), 0);
  std::atomic<bool> go{false};
  const auto ticket = lane.submit("look", [&] {
    while (lane.num_waiting() == 0) nap(1);
    go = true;
  });
  nap(5);
  EXPECT_FALSE(go);
  lane.wait(ticket);
  EXPECT_TRUE(go);
  EXPECT_EQ(lane.num_waiting(), 0);
}

}  // namespace
}  // namespace moe
