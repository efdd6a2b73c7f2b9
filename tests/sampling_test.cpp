// How tokens are chosen, and the tests of paired differences: known values. Not here: models.
#include "lib/run/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "lib/run/paired.h"

namespace moe {
namespace {

// How often each token is chosen over evenly spread random numbers.
std::vector<double> shares(const std::vector<float>& logits, const Sampling& sampling) {
  constexpr int kDraws = 20000;
  std::vector<double> share(logits.size());
  for (int i = 0; i < kDraws; ++i)
    share[static_cast<std::size_t>(choose_token(logits, sampling, (i + 0.5) / kDraws))] += 1.0 / kDraws;
  return share;
}

void expect_shares(const std::vector<double>& found, const std::vector<double>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], expected[i], 2e-4) << i;
}

TEST(Sampling, Distributions) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.3f), std::log(0.2f)};
  expect_shares(shares(logits, {.temperature = 1}), {0.1, 0.4, 0.3, 0.2});
  expect_shares(shares(logits, {.temperature = 0.5f}), {1 / 30.0, 16 / 30.0, 9 / 30.0, 4 / 30.0});
  expect_shares(shares(logits, {.temperature = 1, .top_k = 2}), {0, 4 / 7.0, 3 / 7.0, 0});
  expect_shares(shares(logits, {.temperature = 1, .top_k = 9}), {0.1, 0.4, 0.3, 0.2});
  expect_shares(shares(logits, {.temperature = 1, .top_p = 0.6f}), {0, 4 / 7.0, 3 / 7.0, 0});
  expect_shares(shares(logits, {.temperature = 1, .top_p = 0.01f}), {0, 1, 0, 0});
  expect_shares(shares(logits, {.temperature = 1, .top_k = 3, .top_p = 0.8f}), {0, 4 / 9.0, 3 / 9.0, 2 / 9.0});
  expect_shares(shares(logits, {.temperature = 0}), {0, 1, 0, 0});
  expect_shares(shares({2, 5, 5, 1}, {.temperature = 0}), {0, 1, 0, 0});
  expect_shares(shares({2, 5, 5, 1}, {.temperature = 1, .top_k = 1}), {0, 1, 0, 0});
}

// Student's t: two-sided 5 % points of the tables; binomial tails by counting.
TEST(Paired, KnownValues) {
  const auto p_of_t = [](double t, double n) { return regularized_beta(n / (n + t * t), n / 2, 0.5); };
  EXPECT_NEAR(p_of_t(12.7062, 1), 0.05, 1e-6);
  EXPECT_NEAR(p_of_t(2.228139, 10), 0.05, 1e-6);
  EXPECT_NEAR(p_of_t(1.959964, 1e7), 0.05, 1e-6);
  EXPECT_NEAR(regularized_beta(0.3, 2, 3), 0.3483, 1e-12);
  EXPECT_EQ(regularized_beta(0, 2, 3), 0);
  EXPECT_EQ(regularized_beta(1, 2, 3), 1);

  const std::vector<double> a = {3, 5, 7, 9}, b = {2, 3, 4, 5}, tokens = {1, 1, 1, 1};  // differences 1, 2, 3, 4
  const PairedTest test = paired_test(a, b, tokens);
  EXPECT_DOUBLE_EQ(test.mean, 2.5);
  EXPECT_NEAR(test.standard_error, std::sqrt(5.0 / 3 / 4), 1e-12);
  EXPECT_NEAR(test.t, 3.872983, 1e-6);
  EXPECT_NEAR(test.p_t, 0.030466, 1e-6);
  EXPECT_NEAR(test.p_sign, 2.0 / 16, 1e-12);
  EXPECT_EQ(test.num_greater, 4);

  const PairedTest mixed = paired_test(std::vector<double>{1, 1, 1, 1, 1}, std::vector<double>{0, 0, 0, 2, 1},
                                       std::vector<double>{1, 1, 1, 1, 1});
  EXPECT_NEAR(mixed.p_sign, 2 * 5.0 / 16, 1e-12) << "one of four, the equal pair is left out";
  const PairedTest same = paired_test(a, a, tokens);
  EXPECT_EQ(same.p_t, 1);
  EXPECT_EQ(same.p_sign, 1);
  EXPECT_EQ(same.mean, 0);
}

}  // namespace
}  // namespace moe
