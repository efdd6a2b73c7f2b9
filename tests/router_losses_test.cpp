// Balance loss, z-loss and top-k counts of the router: published oracles, plain loops, finite differences in double.
#include "tests/kernel_test.h"

namespace moe {
namespace {

constexpr double kAlpha = 0.01;

struct Shape {
  std::int64_t segments, tokens;
  int E, K;
};
constexpr Shape kShapes[] = {{1, 1, 1, 1}, {3, 7, 8, 2}, {2, 67, 37, 5}, {5, 13, 64, 8}};

double balance(const Shape& s, const std::vector<double>& scores, const std::vector<double>& f) {
  double loss = 0;
  for (std::int64_t g = 0; g < s.segments; ++g)
    for (int i = 0; i < s.E; ++i) {
      double p = 0;
      for (std::int64_t t = g * s.tokens; t < (g + 1) * s.tokens; ++t) {
        double sum = 0;
        for (int j = 0; j < s.E; ++j) sum += scores[t * s.E + j];
        p += scores[t * s.E + i] / sum;
      }
      loss += f[g * s.E + i] * p / static_cast<double>(s.tokens);
    }
  return kAlpha * loss / static_cast<double>(s.segments);
}

double z_loss(int E, const std::vector<double>& logits, double coef) {
  double total = 0;
  const std::size_t T = logits.size() / E;
  for (std::size_t t = 0; t < T; ++t) {
    double sum = 0;
    for (int e = 0; e < E; ++e) sum += std::exp(logits[t * E + e]);
    total += std::log(sum) * std::log(sum);
  }
  return coef * total / static_cast<double>(T);
}

RouterShape shape_of(const Shape& s) { return {.num_experts = s.E, .top_k = s.K}; }

TEST(RouterLosses, BalanceAgreesWithPlainLoopsAndFiniteDifferences) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(std::string(k->isa) + " E " + std::to_string(s.E));
      const std::int64_t T = s.segments * s.tokens;
      const auto scores = random_floats(T * s.E, 1, 0.05f, 1), f = random_floats(s.segments * s.E, 2, 0, 3);
      std::vector<float> ds(scores.size(), 0.0f), added(scores.size(), 1.0f);
      Stream stream(kernel_device(), 2);
      const auto run = [&](float scale, float* out) {
        return number_of(stream, [&](double* sum) {
          k->router.balance_loss(stream, shape_of(s), scores.data(), s.segments, s.tokens, f.data(), kAlpha, scale, out,
                                 sum);
        });
      };
      const double got = run(100, ds.data()), want = balance(s, doubles(scores), doubles(f));
      EXPECT_NEAR(got, 100 * want, 1e-4 * want);
      EXPECT_EQ(run(100, nullptr), got);
      expect_gradient([&](const auto& x) { return 100 * balance(s, x, doubles(f)); }, doubles(scores), ds, 2e-5, 0.1);
      run(100, added.data());
      for (std::size_t i = 0; i < ds.size(); ++i) ASSERT_NEAR(added[i], 1 + ds[i], 1e-6);
    }
}

// Switch Transformer: E sum f P = 1 when all is even, so the loss is alpha; and the sequence-wise loss likewise.
TEST(RouterLosses, PerfectBalanceCostsAlpha) {
  for (const Kernels* k : all_isas()) {
    const std::vector<float> scores(12 * 8, 0.125f), f(3 * 8, 1.0f);  // f = E * share of each expert = 1
    Stream stream(kernel_device(), 1);
    const double got = number_of(stream, [&](double* sum) {
      k->router.balance_loss(stream, {8, 2}, scores.data(), 3, 4, f.data(), kAlpha, 1, nullptr, sum);
    });
    EXPECT_NEAR(got, kAlpha, 1e-9);
  }
}

// DeepSeek-V3, equations 17 to 20, from the scores on: f_i = E / (K T) x tokens of the sequence that choose i, P_i the mean
// of s_i / sum s. Sigmoid scores that are all but even, with choices that go round, cost alpha; the same K for all, alpha E
// / K.
TEST(RouterLosses, SequenceWiseLossOfKnownRouting) {
  constexpr int kE = 8, kK = 2, kSequences = 3, kTokens = 16;
  const auto loss_of = [&](const Kernels& k, const std::vector<float>& scores) {
    Stream stream(kernel_device(), 2);
    const RouterShape shape{.num_experts = kE, .top_k = kK, .score = Score::kSigmoid};
    std::vector<std::int64_t> counts(kSequences * kE);
    k.router.count_top_k(stream, shape, scores.data(), kSequences, kTokens, counts.data());
    std::vector<float> f;
    for (const std::int64_t c : counts) f.push_back(static_cast<float>(c) * kE / (kK * kTokens));
    return number_of(stream, [&](double* sum) {
      k.router.balance_loss(stream, shape, scores.data(), kSequences, kTokens, f.data(), kAlpha, 1, nullptr, sum);
    });
  };
  for (const Kernels* k : all_isas()) {
    std::vector<float> even, same;
    for (int t = 0; t < kSequences * kTokens; ++t)
      for (int e = 0; e < kE; ++e) {
        const bool chosen = (e - t % kE + kE) % kE < kK;
        even.push_back(chosen ? 0.500001f : 0.5f);
        same.push_back(e < kK ? 0.7f : 0.0f);
      }
    EXPECT_NEAR(loss_of(*k, even), kAlpha, 1e-6 * kAlpha);
    EXPECT_NEAR(loss_of(*k, same), kAlpha * kE / kK, 1e-6 * kAlpha);
  }
}

// f = factor * (counts - before), rounded once.
TEST(RouterLosses, FractionsOfCounts) {
  const std::vector<std::int64_t> counts{0, 7, 1LL << 40, 5, 12}, before{0, 3, 1LL << 39, 5, 0};
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> all(counts.size()), since(counts.size());
    k->router.fractions(stream, counts.data(), nullptr, 1.0 / 3, all);
    k->router.fractions(stream, counts.data(), before.data(), 1.0 / 3, since);
    stream.synchronize();
    for (std::size_t i = 0; i < counts.size(); ++i) {
      EXPECT_EQ(all[i], static_cast<float>(1.0 / 3 * static_cast<double>(counts[i])));
      EXPECT_EQ(since[i], static_cast<float>(1.0 / 3 * static_cast<double>(counts[i] - before[i])));
    }
  }
}

TEST(RouterLosses, VanishedScoresAreNotNotANumber) {
  for (const Kernels* k : all_isas()) {
    const std::vector<float> scores(8, 0.0f), f(8, 1.0f);
    Stream stream(kernel_device(), 1);
    EXPECT_TRUE(std::isfinite(number_of(stream, [&](double* sum) {
      k->router.balance_loss(stream, {8, 2}, scores.data(), 1, 1, f.data(), kAlpha, 1, nullptr, sum);
    })));
    EXPECT_EQ(number_of(stream,
                        [&](double* sum) {
                          k->router.balance_loss(stream, {8, 2}, scores.data(), 0, 0, f.data(), kAlpha, 1, nullptr, sum);
                        }),
              0);
  }
}

TEST(RouterLosses, ZLossAndItsGradient) {
  const float coef = 1e-3f, scale = 7;
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes) {
      const std::int64_t T = s.segments * s.tokens;
      const auto logits = random_floats(T * s.E, 1, -5, 5);
      std::vector<float> dl(logits.size(), 0.5f), published(logits.size());
      Stream stream(kernel_device(), 2);
      const double got = number_of(stream, [&](double* sum) {
        k->router.z_loss(stream, shape_of(s), logits.data(), T, coef, scale, dl.data(), sum);
      });
      EXPECT_NEAR(got, double{scale} * z_loss(s.E, doubles(logits), coef), 1e-6 * got + 1e-12);
      EXPECT_EQ(number_of(stream,
                          [&](double* sum) {
                            k->router.z_loss(stream, shape_of(s), logits.data(), T, coef, scale, nullptr, sum);
                          }),
                got);
      // 2 c lse softmax / T
      std::vector<double> want;
      for (std::int64_t t = 0; t < T; ++t) {
        double sum = 0;
        for (int e = 0; e < s.E; ++e) sum += std::exp(double{logits[t * s.E + e]});
        for (int e = 0; e < s.E; ++e)
          want.push_back(0.5 + scale * 2.0 * coef * std::log(sum) * std::exp(double{logits[t * s.E + e]}) / sum / double(T));
      }
      EXPECT_TRUE(close_to(std::span<const float>(dl), std::span<const double>(want), 3e-7));
      number_of(stream, [&](double* sum) {
        k->router.z_loss(stream, shape_of(s), logits.data(), T, coef, scale, published.data(), sum);
      });
      expect_gradient([&](const auto& x) { return double{scale} * z_loss(s.E, x, coef); }, doubles(logits), published, 1e-4);
    }
}

TEST(RouterLosses, ZLossOfLargeLogitsIsFinite) {
  for (const Kernels* k : all_isas()) {
    const std::vector<float> logits{1000, 1000, -1000};
    Stream stream(kernel_device(), 1);
    const double lse = 1000 + std::log(2.0);
    EXPECT_NEAR(number_of(stream,
                          [&](double* sum) {
                            k->router.z_loss(stream, {3, 1}, logits.data(), 1, 1, 1, nullptr, sum);
                          }),
                lse * lse, 1e-3);
  }
}

TEST(RouterLosses, CountsAreOfTheScoresAlone) {
  for (const Kernels* k : all_isas()) {
    // Ties to the lowest index; groups and bias of the shape do not matter here.
    const std::vector<float> scores{.5f, .5f, .5f, .1f, .1f, .9f, .2f, .2f, 0, 0, 0, 0};
    std::vector<std::int64_t> counts(8, -1);
    Stream stream(kernel_device(), 1);
    const RouterShape grouped{4, 2, Score::kSigmoid, false, 1, 2, 1, GroupScore::kMax};
    k->router.count_top_k(stream, grouped, scores.data(), 1, 3, counts.data());
    EXPECT_EQ((std::vector<std::int64_t>(counts.begin(), counts.begin() + 4)), (std::vector<std::int64_t>{2, 3, 1, 0}));
    EXPECT_THROW(k->router.count_top_k(stream, {4, 5}, scores.data(), 1, 3, counts.data()), std::invalid_argument);
  }
}

TEST(RouterLosses, CountsOfSegmentsWithAnyThreads) {
  const Shape s{7, 129, 33, 4};
  const auto scores = random_floats(s.segments * s.tokens * s.E, 1, 0, 1);
  for (const Kernels* k : all_isas()) {
    std::vector<std::int64_t> want(s.segments * s.E);
    for (std::int64_t t = 0; t < s.segments * s.tokens; ++t)
      for (int e = 0; e < s.E; ++e) {
        int larger = 0;
        for (int j = 0; j < s.E; ++j) {
          const float a = scores[t * s.E + j], b = scores[t * s.E + e];
          larger += a > b || (a == b && j < e);
        }
        want[t / s.tokens * s.E + e] += larger < s.K;
      }
    for (const int threads : {1, 2, 3}) {
      std::vector<std::int64_t> counts(s.segments * s.E, -1);
      Stream stream(kernel_device(), threads);
      k->router.count_top_k(stream, shape_of(s), scores.data(), s.segments, s.tokens, counts.data());
      EXPECT_EQ(counts, want);
    }
  }
}

TEST(RouterLosses, BitsDoNotDependOnThreads) {
  const Shape s{3, 211, 37, 4};
  const std::int64_t T = s.segments * s.tokens;
  const auto logits = random_floats(T * s.E, 1, 0.1f, 2), f = random_floats(s.segments * s.E, 2, 0, 3);
  for (const Kernels* k : all_isas())
    expect_same_bits_with_any_threads([&](Stream& stream) {
      std::vector<float> d(logits.size());
      const double a = number_of(stream, [&](double* sum) {
        k->router.balance_loss(stream, shape_of(s), logits.data(), s.segments, s.tokens, f.data(), 1, 1, d.data(), sum);
      });
      const double b = number_of(
          stream, [&](double* sum) { k->router.z_loss(stream, shape_of(s), logits.data(), T, 1, 1, d.data(), sum); });
      for (const double v : {a, b}) {  // both halves of the double
        d.push_back(static_cast<float>(v));
        d.push_back(static_cast<float>(v - static_cast<double>(d.back())));
      }
      return d;
    });
}

}  // namespace
}  // namespace moe
