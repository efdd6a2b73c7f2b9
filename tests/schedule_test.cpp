// Values that change over a run, learning rates in phases, batches that grow: texts and what follows from them. Not here:
// runs (schedule_train_test.sh).
#include "lib/run/schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/error.h"
#include "tests/train_parsed.h"

namespace moe {
namespace {

TEST(ValueSchedule, ChangesAtItsPoints) {
  const ValueSchedule s = ValueSchedule::parse("0.3,0.1@0.5,0@10M");
  EXPECT_EQ(s.at({0, 0, 0}), 0.3f);
  EXPECT_EQ(s.at({0.499, 0, 0}), 0.3f);
  EXPECT_EQ(s.at({0.5, 9.99e6, 0}), 0.1f);
  EXPECT_EQ(s.at({0.5, 1e7, 0}), 0);
  EXPECT_EQ(s.least(), 0);
  EXPECT_EQ(s.most(), 0.3f);
  EXPECT_EQ(ValueSchedule(0.25f).at({1, 1e9, 1e9}), 0.25f);
}

TEST(ValueSchedule, TextsReadBack) {
  for (const char* text :
       {"0", "0.001", "1e-4", "0.001,0@0.966", "0.3,0.1@10T", "1,2@469B,3@1.5T", "-1,1@1K", "1,0@1.234567T"})
    EXPECT_EQ(ValueSchedule::parse(text).text(), text);
  EXPECT_EQ(ValueSchedule::parse("1,0@14300B").text(), "1,0@14.3T");
  EXPECT_EQ(ValueSchedule::parse("1,0@0.5K").text(), "1,0@0.5K");
}

TEST(ValueSchedule, RefusesWhatIsNone) {
  for (const char* text : {"", "x", "0.1,", "0.1,0.2", "0.1,0.2@", "0.1,@0.5", "0.1,0.2@1.5", "0.1,0.2@-1", "0.1,0@10G",
                           "0.1,0@0.5,1@0.5", "0.1,0@2K,1@1K", "nan", "inf", "1,nan@0.5", "1,2@nan", "0.1 ,0@0.5"})
    EXPECT_THROW(ValueSchedule::parse(text), Error) << text;
}

TEST(LrPhases, FactorsOfV3) {
  const LrPhases p = LrPhases::parse("constant@10T,cosine:0.1@14.3T,constant@14.633T,constant:0.0331818");
  const auto at = [&](double tokens) { return p.factor({tokens / 14.8e12, tokens, 14.8e12}); };
  EXPECT_EQ(at(0), 1);
  EXPECT_EQ(at(9.999e12), 1);
  EXPECT_NEAR(at(12.15e12), 0.55, 1e-9);
  EXPECT_NEAR(at(11.075e12), 0.1 + 0.9 * 0.5 * (1 + std::cos(std::acos(-1.0) / 4)), 1e-9);
  EXPECT_NEAR(at(14.3e12), 0.1, 1e-12);
  EXPECT_NEAR(at(14.6e12), 0.1, 1e-12);
  EXPECT_EQ(at(14.7e12), 0.0331818);
  EXPECT_EQ(at(14.8e12), 0.0331818);
  EXPECT_TRUE(p.has_tokens());
}

TEST(LrPhases, LinesAndLevels) {
  const LrPhases p = LrPhases::parse("constant:0.5@0.2,linear:1@0.4,linear:0");
  EXPECT_FALSE(p.has_tokens());
  EXPECT_EQ(p.factor({0.1, 0, 0}), 0.5);
  EXPECT_NEAR(p.factor({0.3, 0, 0}), 0.75, 1e-12);
  EXPECT_NEAR(p.factor({0.7, 0, 0}), 0.5, 1e-12);
  EXPECT_EQ(p.factor({1, 0, 0}), 0);
  EXPECT_EQ(LrPhases::parse("constant:2@0.2").factor({0.9, 0, 0}), 2) << "behind the last end its level stays";
}

TEST(LrPhases, Texts) {
  for (const char* text :
       {"", "constant", "constant@0.8,constant:0.316@0.9,constant:0.1", "linear:0", "cosine:0.1@10T,constant"})
    EXPECT_EQ(LrPhases::parse(text).text(), text);
  for (const char* text : {"cosine", "linear@0.5", "flat", "constant,constant", "constant:-1", "constant@2", "cosine:x",
                           "constant@0.5,linear:1@0.5", ",", "constant@0.5,"})
    EXPECT_THROW(LrPhases::parse(text), Error) << text;
}

TrainOptions ramped(const std::string& ramp, int batch, int seq, std::int64_t steps) {
  TrainOptions o;
  o.batch_ramp = BatchRamp::parse(ramp), o.batch = batch, o.seq = seq, o.steps = steps;
  return o;
}

// 60 sequences in three parts of 20: 5 steps of 4, 3 of 7 (21 sequences), 2 of 10 (19 are left); then 13.
TEST(BatchRamp, Levels) {
  const TrainOptions o = ramped("4:600K:3", 13, 10000, 20);
  const int want[] = {4, 4, 4, 4, 4, 7, 7, 7, 10, 10, 13, 13};
  std::int64_t samples = 0;
  for (std::int64_t s = 0; s < 12; ++s) {
    EXPECT_EQ(batch_after(o, s), want[s]) << s;
    EXPECT_EQ(samples_of_steps(o, s), samples);
    EXPECT_EQ(steps_of_samples(o, samples), s);
    EXPECT_EQ(steps_of_samples(o, samples + want[s] - 1), s);
    samples += want[s];
  }
  EXPECT_EQ(samples_of_steps(o, 1000000), 61 + (1000000 - 10) * 13);
}

TEST(BatchRamp, Edges) {
  EXPECT_EQ(batch_after(ramped("", 13, 8, 5), 3), 13);
  EXPECT_EQ(samples_of_steps(ramped("", 13, 8, 5), 3), 39);
  EXPECT_EQ(batch_after(ramped("13:1K:3", 13, 8, 5), 0), 13) << "nothing to grow";
  EXPECT_EQ(batch_after(ramped("2:0.001K:1", 9, 8, 5), 1), 9) << "shorter than a step";
  EXPECT_EQ(batch_after(ramped("4:80K", 9, 8, 5), 3), 4);
  EXPECT_EQ(ramped("4:80K", 9, 8, 5).batch_ramp.step, 4) << "by FROM";
  EXPECT_EQ(batch_after(ramped("4:80K", 9, 8, 5), 100000), 9) << "the last step is what is left";
  EXPECT_EQ(BatchRamp::parse("3072:469B:768").text(), "3072:469B:768");
  EXPECT_EQ(BatchRamp::parse("").text(), "");
  for (const char* text : {"4", "4:", "4:0.5", "0:1K", "4:1K:0", "4:1K:1:1", "-4:1K", "x:1K", "4:0K", ":1K", "4:9999999T"})
    EXPECT_THROW(BatchRamp::parse(text), Error) << text;
}

TEST(Schedule, ProgressIsThatOfTokens) {
  const TrainOptions o = ramped("4:600K:3", 13, 10000, 20);
  const double all = 61 + 10 * 13;
  EXPECT_DOUBLE_EQ(run_progress(o, 5, 0), 20 / all);
  EXPECT_EQ(run_progress(o, 20, 0), 1);
  const RunPoint p = run_point(o, 6, 0.25);
  EXPECT_EQ(p.fraction, 0.25);
  EXPECT_EQ(p.tokens, 200000);
  EXPECT_EQ(p.total_tokens, all * 10000);
}

TEST(Schedule, TheCosineBeginsBehindTheWarmUp) {
  TrainOptions o;
  o.lr = 1, o.min_lr = 0.1f, o.warmup = 20, o.steps = 100;
  const auto rate = [&](std::int64_t step) { return learning_rate(o, step, run_progress(o, step - 1, 0)); };
  EXPECT_DOUBLE_EQ(rate(10), 0.5);
  EXPECT_DOUBLE_EQ(rate(20), 1);
  EXPECT_DOUBLE_EQ(rate(21), 1) << "the first step behind it";
  EXPECT_NEAR(rate(61), 0.55, 1e-7) << "half way from there to the end";
  EXPECT_NEAR(learning_rate(o, 101, 1), 0.1, 1e-7);
  o.warmup = 200;
  EXPECT_DOUBLE_EQ(rate(100), 0.5) << "a run that is all warm-up";
}

TEST(Schedule, OptionsThatDoNotFitEachOther) {
  const std::vector<std::vector<std::string>> bad = {
      {"--batch", "8", "--batch-ramp", "9:1K"},
      {"--schedule", "phases"},
      {"--schedule", "cosine", "--lr-phases", "constant"},
      {"--lr-phases", "constant"},
      {"--schedule", "phases", "--lr-phases", "constant@1K,linear:0", "--time-limit", "5"},
      {"--bias-update-speed", "0,0.1@0.5"},
      {"--router-bias", "--bias-update-speed", "0.1,-0.1@0.5"}};
  for (const auto& words : bad) EXPECT_THROW(Parsed{words}, Error) << words[1];
  EXPECT_NO_THROW(Parsed({"--preset", "deepseek-v3", "--schedule", "cosine"}));
  EXPECT_NO_THROW(Parsed({"--schedule", "phases", "--lr-phases", "constant@0.5,linear:0", "--time-limit", "5"}));
}

}  // namespace
}  // namespace moe
