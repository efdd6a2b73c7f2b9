// Cross-entropy: against plain loops, finite differences in double, uncounted tokens, any number of threads.
#include <algorithm>
#include <limits>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t T, V;
  std::int64_t pad = 3;
};
// The last ones: rows that a GPU's threads read in packs, and rows of which less and less fits into its shared memory.
constexpr Shape kShapes[] = {{1, 1},       {7, 7},       {33, 16},      {131, 257},    {0, 5},        {9, 4, 4},
                             {7, 260, 12}, {3, 2052, 0}, {2, 12288, 0}, {2, 40001, 0}, {2, 40004, 4}, {2, 60012, 0}};
constexpr float kScale = 0.37f;

template <class R>
struct Reference {
  double total = 0;
  std::vector<R> loss, grad;
};
template <class R>
Reference<R> reference(const Shape& s, const std::vector<R>& x, const std::vector<std::int32_t>& target) {
  Reference<R> out{0, std::vector<R>(s.T), std::vector<R>(x.size())};
  for (std::int64_t t = 0; t < s.T; ++t) {
    if (target[t] < 0) continue;
    R largest = x[t * s.V], sum = 0;
    for (std::int64_t j = 0; j < s.V; ++j) largest = std::max(largest, x[t * s.V + j]);
    for (std::int64_t j = 0; j < s.V; ++j) sum += std::exp(x[t * s.V + j] - largest);
    out.loss[t] = std::log(sum) + largest - x[t * s.V + target[t]];
    out.total += out.loss[t];
    for (std::int64_t j = 0; j < s.V; ++j)
      out.grad[t * s.V + j] = R(kScale) * (std::exp(x[t * s.V + j] - largest) / sum - R(j == target[t]));
  }
  return out;
}

double loss_of(const Kernels& k, Stream& stream, Mat logits, std::span<const std::int32_t> target, float grad_scale,
               float* loss_T) {
  return number_of(stream, [&](double* sum) { k.cross_entropy.forward(stream, logits, target, grad_scale, loss_T, sum); });
}

TEST(CrossEntropy, AgreesWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes) {
      SCOPED_TRACE(std::string(k->isa) + " T " + std::to_string(s.T) + " V " + std::to_string(s.V));
      TestMat logits = TestMat::random(DType::kF32, s.T, s.V, 1, s.pad, 12);
      const auto target = random_ints(s.T, 2, -1, s.V);
      const auto naive = reference<float>(s, logits.values(), target);
      const auto truth = reference<double>(s, logits.values<double>(), target);
      std::vector<float> loss(s.T, 9.0f);
      const auto before = logits.values();
      Stream stream(kernel_device(), 2);
      const double only_loss = loss_of(*k, stream, logits.view(), target, 0, nullptr);
      EXPECT_EQ(logits.values(), before) << "no gradient was asked for";
      const double total = loss_of(*k, stream, logits.view(), target, kScale, loss.data());
      EXPECT_EQ(total, only_loss);
      EXPECT_LE(std::fabs(total - truth.total), 1e-6 * (std::fabs(truth.total) + 1e-3));
      EXPECT_TRUE(as_good_as_naive(loss, naive.loss, truth.loss));
      EXPECT_TRUE(as_good_as_naive(logits.values(), naive.grad, truth.grad));
      EXPECT_TRUE(logits.padding_is_intact());
    }
}

TEST(CrossEntropy, GradientIsThatOfTheFormula) {
  const Shape s{9, 41};
  const auto target = random_ints(s.T, 2, -1, s.V);
  for (const Kernels* k : all_isas()) {
    TestMat logits = TestMat::random(DType::kF32, s.T, s.V, 1, 0, 4);
    const auto x = logits.values<double>();
    Stream stream(kernel_device(), 1);
    loss_of(*k, stream, logits.view(), target, kScale, nullptr);
    expect_gradient([&](const auto& v) { return double{kScale} * reference<double>(s, v, target).total; }, x,
                    logits.values());
  }
}

TEST(CrossEntropy, LargeLogitsAreSafeAndNanShows) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> l{1e4f, -1e4f, 0, 1e4f};
    const std::vector<std::int32_t> target{0};
    EXPECT_NEAR(loss_of(*k, stream, mat(l.data(), 1, 4), target, 1, nullptr), std::log(2.0), 1e-7);
    EXPECT_NEAR(l[0], -0.5, 1e-7);
    EXPECT_NEAR(l[3], 0.5, 1e-7);
    EXPECT_EQ(l[1], 0);
    std::vector<float> bad{1, 2, std::nanf(""), 3};
    EXPECT_TRUE(std::isnan(loss_of(*k, stream, mat(bad.data(), 1, 4), target, 1, nullptr)));
  }
}

// Logits of -infinity (tokens that are ruled out) have no probability and no gradient, wherever they stand.
TEST(CrossEntropy, InfinitelySmallLogitsCountNothing) {
  const float inf = std::numeric_limits<float>::infinity();
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> l(140, -inf);
    l[3] = l[137] = 2;
    const std::vector<std::int32_t> target{137};
    EXPECT_NEAR(loss_of(*k, stream, mat(l.data(), 1, 140), target, 1, nullptr), std::log(2.0), 1e-6);
    for (std::size_t i = 0; i < l.size(); ++i) EXPECT_NEAR(l[i], i == 3 ? 0.5 : i == 137 ? -0.5 : 0, 1e-6) << i;
  }
}

TEST(CrossEntropy, GreedyTakesTheLowestOfTheLargest) {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes) {
      TestMat logits = TestMat::random(DType::kF32, s.T, s.V, 1, s.pad);
      std::vector<std::int32_t> want(s.T), got(s.T);
      for (std::int64_t t = 0; t < s.T; ++t) {
        logits.set(t, (t * 37 + s.V - 1) % s.V, 3), logits.set(t, (t * 11 + s.V / 2) % s.V, 3);
        want[t] = static_cast<std::int32_t>(std::min((t * 37 + s.V - 1) % s.V, (t * 11 + s.V / 2) % s.V));
      }
      Stream stream(kernel_device(), 2);
      k->cross_entropy.greedy(stream, logits.view(), got.data());
      EXPECT_EQ(got, want) << k->isa << " V " << s.V;
    }
  const std::vector<std::vector<float>> rows{{-inf, -inf, -inf}, {1, nan, 2}, {nan, 1, 2}, {-inf, -1, nan}};
  const std::vector<std::int32_t> want{0, 2, 0, 1};
  for (const Kernels* k : all_isas())
    for (std::size_t i = 0; i < rows.size(); ++i) {
      Stream stream(kernel_device(), 1);
      std::vector<std::int32_t> got(1, 7);
      k->cross_entropy.greedy(stream, mat(rows[i].data(), 1, 3), got.data());
      EXPECT_EQ(got[0], want[i]) << k->isa << " row " << i;
    }
}

TEST(CrossEntropy, GreedyIsTheFirstOfTheLargest) {
  for (const Kernels* k : all_isas())
    for (const std::int64_t V : {1, 7, 31, 32, 33, 257, 1000, 4099})
      for (const std::int64_t T : {0, 1, 13}) {
        Stream stream(kernel_device(), 2);
        TestMat logits = TestMat::random(DType::kF32, T, V, 1, V % 3, 9);
        std::vector<std::int32_t> want(T), got(T, -5);
        for (std::int64_t t = 0; t < T; ++t) {
          // Few values, so that most are there often; some rows all alike, some without a finite one but the last.
          for (std::int64_t v = 0; v < V; ++v)
            logits.set(t, v, t % 5 == 3 ? -2.0f : t % 5 == 4 && v + 1 < V ? -HUGE_VALF : std::floor(logits.at(t, v)));
          const std::vector<float> row = logits.values();
          const auto begin = row.begin() + t * V;
          want[t] = static_cast<std::int32_t>(std::max_element(begin, begin + V) - begin);
        }
        k->cross_entropy.greedy(stream, logits.view(), got.data());
        EXPECT_EQ(got, want) << k->isa << " V " << V;
        EXPECT_TRUE(logits.padding_is_intact());
      }
}

// Whatever the logits are, the place is one of the vocabulary; half precision is refused.
TEST(CrossEntropy, GreedyStaysInsideTheVocabulary) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    for (const float bad : {std::nanf(""), -HUGE_VALF, HUGE_VALF}) {
      std::vector<float> row(131, bad);
      std::vector<std::int32_t> token{-5};
      k->cross_entropy.greedy(stream, mat(row.data(), 1, 131), token.data());
      EXPECT_TRUE(token[0] >= 0 && token[0] < 131) << token[0];
      if (!std::isnan(bad)) {
        EXPECT_EQ(token[0], 0);
      }
    }
    TestMat half(DType::kBF16, 2, 5);
    std::vector<std::int32_t> token(2);
    EXPECT_THROW(k->cross_entropy.greedy(stream, half.view(), token.data()), std::invalid_argument);
  }
}

TEST(CrossEntropy, BitsDoNotDependOnThreads) {
  const Shape s{201, 97};
  const auto target = random_ints(s.T, 2, -1, s.V);
  for (const Kernels* k : all_isas())
    expect_same_bits_with_any_threads([&](Stream& stream) {
      TestMat logits = TestMat::random(DType::kF32, s.T, s.V, 1, 0, 9);
      const double total = loss_of(*k, stream, logits.view(), target, kScale, nullptr);
      std::vector<float> all = logits.values();
      all.push_back(static_cast<float>(total));
      all.push_back(static_cast<float>(total - static_cast<double>(all.back())));
      return all;
    });
}

TEST(CrossEntropy, RefusesForeignTargetsAndShapes) {
  TestMat logits(DType::kF32, 2, 5), half(DType::kBF16, 2, 5);
  Stream stream(kernel_device(), 1);
  const std::vector<std::int32_t> high{0, 5}, low{-2, 0}, three{0, 0, 0}, fine{0, 4};
  for (const Kernels* k : all_isas()) {
    EXPECT_THROW(loss_of(*k, stream, logits.view(), three, 1, nullptr), std::invalid_argument);
    EXPECT_THROW(loss_of(*k, stream, half.view(), fine, 1, nullptr), std::invalid_argument);
    if (tests_cuda()) continue;  // values are not looked at
    for (const auto& target : {high, low})
      EXPECT_THROW(loss_of(*k, stream, logits.view(), target, 1, nullptr), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
