// The pure parts of training: schedules, the order of the data, load metrics, the bias update. Not here: whole runs
// (train_resume_test.sh, train_errors_test.sh), what changes on the way (schedule_test.cpp).
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>

#include "lib/base/error.h"
#include "lib/model/load_metrics.h"
#include "lib/model/model.h"
#include "lib/run/data_order.h"
#include "lib/run/schedule.h"
#include "lib/run/train_state.h"
#include "tests/compare.h"

namespace moe {
namespace {

TEST(Schedule, Values) {
  TrainOptions o;
  o.lr = 1, o.min_lr = 0.1f, o.warmup = 4, o.schedule = Schedule::kConstant;
  EXPECT_DOUBLE_EQ(learning_rate(o, 1, 0), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate(o, 4, 0), 1);
  EXPECT_DOUBLE_EQ(learning_rate(o, 400, 0.9), 1);
  o.schedule = Schedule::kCosine;
  EXPECT_NEAR(learning_rate(o, 2, 0), 0.5, 1e-7) << "the factor of the warm-up multiplies";
  EXPECT_NEAR(learning_rate(o, 50, 0.5), 0.55, 1e-7);
  EXPECT_NEAR(learning_rate(o, 100, 1), 0.1, 1e-7);
  o.schedule = Schedule::kWsd, o.decay_fraction = 0.2f;
  EXPECT_NEAR(learning_rate(o, 50, 0.79), 1, 1e-7);
  EXPECT_NEAR(learning_rate(o, 90, 0.9), 0.55, 1e-6);
  EXPECT_NEAR(learning_rate(o, 100, 1), 0.1, 1e-6);
  o.warmup = 0, o.decay_fraction = 0;
  EXPECT_EQ(learning_rate(o, 1, 1), 1);
}

TEST(Schedule, Progress) {
  TrainOptions o;
  o.steps = 10, o.time_limit = 0;
  EXPECT_EQ(run_progress(o, 5, 1e9), 0.5);
  o.time_limit = 8;
  EXPECT_EQ(run_progress(o, 5, 6), 0.75);
  EXPECT_EQ(run_progress(o, 50, 6), 1);
  o.steps = 0;
  EXPECT_EQ(run_progress(o, 50, 2), 0.25);
}

class Order : public ::testing::Test {
 protected:
  static TokenSource text(int n) {
    const std::string path = ::testing::TempDir() + "/order_" + std::to_string(n) + ".txt";
    std::ofstream out(path, std::ios::binary);
    for (int i = 0; i < n; ++i) out.put(static_cast<char>('a' + i * 7 % 26));
    out.close();
    return TokenSource::open(path);
  }
};

TEST_F(Order, EveryEpochHoldsEveryWindowOnceInsideTheData) {
  for (const auto& [n, seq] : {std::pair{9, 8}, {16, 8}, {17, 8}, {25, 8}, {1000, 7}, {101, 1}, {2, 1}}) {
    const TokenSource source = text(n);
    const DataOrder order(source, 3, seq, false);
    const std::int64_t per_epoch = order.samples_per_epoch();
    for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
      std::set<std::int64_t> firsts;
      for (std::int64_t i = 0; i < per_epoch; ++i) firsts.insert(order.first_token(epoch * per_epoch + i));
      EXPECT_EQ(static_cast<std::int64_t>(firsts.size()), per_epoch);
      EXPECT_GE(*firsts.begin(), 0);
      EXPECT_LT(*firsts.begin(), std::max(seq, 1));
      EXPECT_LE(*firsts.rbegin() + seq + 1, n);
      EXPECT_EQ(*firsts.rbegin() - *firsts.begin(), (per_epoch - 1) * seq) << "windows side by side";
    }
  }
  EXPECT_THROW(DataOrder(text(8), 3, 8, false), Error);
}

TEST_F(Order, IsAPureFunctionOfSeedAndIndex) {
  const TokenSource source = text(1000);
  const DataOrder a(source, 3, 8, false), b(source, 3, 8, false), c(source, 4, 8, false);
  int same_as_other_seed = 0, same_as_next_epoch = 0;
  for (std::int64_t i = 99; i >= 0; --i) {
    EXPECT_EQ(a.first_token(i), b.first_token(i));
    same_as_other_seed += a.first_token(i) == c.first_token(i);
    same_as_next_epoch += a.first_token(i) == a.first_token(i + a.samples_per_epoch());
  }
  EXPECT_LT(same_as_other_seed, 10);
  EXPECT_LT(same_as_next_epoch, 10);
}

TEST_F(Order, WindowsHoldTheNextTokens) {
  const TokenSource source = text(30);
  std::vector<std::int32_t> id(8), target(8), doc(8), all(30);
  source.read(0, all);
  fill_window(source, false, 5, id, target, doc);
  for (std::size_t i = 0; i < 8; ++i) EXPECT_TRUE(id[i] == all[5 + i] && target[i] == all[6 + i] && doc[i] == 0);
  fill_window(source, true, 26, id, target, doc);
  EXPECT_EQ(target[2], all[29]);
  EXPECT_EQ(target[3], -1) << "nothing follows the last token";
  EXPECT_EQ(id[4], 0);
}

TEST(LoadMetrics, OfKnownCounts) {
  const std::vector<std::int64_t> even = {5, 5, 5}, skew = {12, 0, 0, 0}, none = {0, 0}, some = {1, 3};
  EXPECT_EQ(load_metrics(even).max_vio, 0);
  EXPECT_EQ(load_metrics(even).cv, 0);
  EXPECT_EQ(load_metrics(skew).max_vio, 3);
  EXPECT_EQ(load_metrics(skew).dead, 3);
  EXPECT_NEAR(load_metrics(skew).cv, std::sqrt(3.0), 1e-12);
  EXPECT_EQ(load_metrics(some).cv, 0.5);
  EXPECT_EQ(load_metrics(none).max_vio, 0);
  EXPECT_EQ(load_metrics(none).dead, 2);
}

TEST(Counters, ALossThatWasNotFiniteSurvivesTheManifest) {
  const nlohmann::json state = {{"step", 3},    {"updates", 1},      {"consumed_samples", 9},    {"skipped", 2},
                                {"seconds", 1}, {"first_loss", 2.5}, {"last_loss", std::nan("")}};
  const RunCounters c = counters_of(nlohmann::json::parse(state.dump()));
  EXPECT_EQ(c.first_loss, 2.5);
  EXPECT_TRUE(std::isnan(c.last_loss));
}

TEST(RouterBias, MovesByTheSignAndStaysAtTheMean) {
  std::vector<float> bias = {0, 0, 0, 0.5f};
  update_router_bias(bias, std::vector<std::int64_t>{1, 3, 2, 2}, 0.25f);
  EXPECT_EQ(bias, (std::vector<float>{0.25f, -0.25f, 0, 0.5f}));
  update_router_bias(bias, std::vector<std::int64_t>{1, 0, 0, 0}, 0.25f);  // the mean is no whole number
  EXPECT_EQ(bias, (std::vector<float>{0, 0, 0.25f, 0.75f}));
}

}  // namespace
}  // namespace moe
