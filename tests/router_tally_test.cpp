// What routers decided, added up: against plain loops; it is added to what was there. Not here: who writes it to a file
// (routing_stats_test.cpp).
#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t T;
  int E, K;
};
constexpr Shape kShapes[] = {{1, 1, 1}, {7, 8, 2}, {8, 7, 7}, {9, 33, 3}, {65, 64, 8}, {523, 37, 5}, {130, 300, 4}};

struct Tally {
  std::vector<std::int64_t> counts, coactivation;
  std::vector<double> entropy{0.0};
  explicit Tally(int E) : counts(E), coactivation(E * E) {}
  void add(const Kernels& k, const Shape& s, const std::vector<float>& scores, const std::vector<std::int32_t>& idx) {
    Stream stream(kernel_device(), 2);
    k.router.tally(stream, {s.E, s.K}, scores.data(), s.T, idx.data(), counts.data(), coactivation.data(), entropy.data());
  }
};

// K different experts of each token.
std::vector<std::int32_t> choices(const Shape& s) {
  const auto first = random_ints(s.T, 3, 0, s.E);
  std::vector<std::int32_t> idx;
  for (std::int64_t t = 0; t < s.T; ++t)
    for (int k = 0; k < s.K; ++k) idx.push_back((first[t] + k) % s.E);
  return idx;
}

TEST(RouterTally, AgreesWithPlainLoopsAndAdds) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(std::string(k->isa) + " T " + std::to_string(s.T) + " E " + std::to_string(s.E));
      auto scores = random_floats(s.T * s.E, 1, 0, 1);
      for (std::size_t i = 0; i < scores.size(); i += 5) scores[i] = 0;  // 0 log 0 is 0
      const auto idx = choices(s);
      Tally got(s.E), want(s.E);
      for (int run = 0; run < 2; ++run) {
        got.add(*k, s, scores, idx);
        double sum = 0;
        int looked_at = 0;
        for (std::int64_t t = 0; t < s.T; ++t) {
          for (int i = 0; i < s.K; ++i) {
            const int e = idx[t * s.K + i];
            ++want.counts[e];
            for (int j = 0; j < s.K; ++j) ++want.coactivation[e * s.E + idx[t * s.K + j]];
          }
          if (t % 8 != 0) continue;
          double total = 0, entropy = 0;
          for (int e = 0; e < s.E; ++e) total += scores[t * s.E + e];
          for (int e = 0; e < s.E; ++e)
            if (const double p = total > 0 ? scores[t * s.E + e] / total : 0; p > 0) entropy -= p * std::log(p);
          sum += entropy, ++looked_at;
        }
        want.entropy[0] += sum * static_cast<double>(s.T) / looked_at;
        EXPECT_EQ(got.counts, want.counts);
        EXPECT_EQ(got.coactivation, want.coactivation);
        EXPECT_LE(std::fabs(got.entropy[0] - want.entropy[0]), 1e-6 * want.entropy[0] + 1e-7);
      }
    }
}

TEST(RouterTally, EntropyOfKnownScores) {
  for (const Kernels* k : all_isas()) {
    const Shape s{20, 16, 2};
    Tally even(s.E), none(s.E), one(s.E), same(s.E);
    std::vector<float> peaked(s.T * s.E);
    for (std::int64_t t = 0; t < s.T; ++t) peaked[t * s.E + t % s.E] = 0.5f;
    even.add(*k, s, std::vector<float>(s.T * s.E, 0.25f), choices(s));
    same.add(*k, s, std::vector<float>(s.T * s.E, 0.25f), choices(s));
    none.add(*k, s, std::vector<float>(s.T * s.E, 0.0f), choices(s));
    one.add(*k, s, peaked, choices(s));
    EXPECT_NEAR(even.entropy[0], 20 * std::log(16.0), 1e-4);
    EXPECT_EQ(same.entropy[0], even.entropy[0]);
    EXPECT_EQ(none.entropy[0], 0);
    EXPECT_NEAR(one.entropy[0], 0, 1e-6);
  }
}

TEST(RouterTally, NoTokensChangeNothingAndForeignExpertsAreRefused) {
  for (const Kernels* k : all_isas()) {
    Tally tally(4);
    tally.add(*k, {0, 4, 2}, {}, {});
    EXPECT_EQ(tally.counts, std::vector<std::int64_t>(4));
    EXPECT_EQ(tally.entropy[0], 0);
    if (tests_cuda()) continue;  // values are not looked at there
    for (const std::int32_t foreign : {-1, 4})
      EXPECT_THROW(tally.add(*k, {1, 4, 2}, std::vector<float>(4), {0, foreign}), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
