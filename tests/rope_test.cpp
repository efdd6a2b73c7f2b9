// Rotary position embedding: against plain loops, the rotation undone by its backward, any number of threads.
#include <numeric>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t T, heads;
  int S;
  int first = 0, width = 0;
  bool interleaved = false;
  std::int64_t pad = 3;
  RopeShape rope() const { return {.head_dim = S, .first = first, .width = width, .interleaved = interleaved}; }
  std::int64_t half() const { return rope().turned() / 2; }
};
constexpr Shape kShapes[] = {{1, 1, 2},
                             {7, 3, 6},
                             {13, 2, 64},
                             {113, 1, 34},
                             {0, 1, 4},
                             {13, 3, 64, 0, 0, true},
                             {7, 5, 13, 7},
                             {7, 5, 13, 7, 0, true},
                             {9, 2, 192, 128, 64, true},
                             {5, 2, 31, 3, 10},
                             // What a GPU's threads read in packs; more heads than one of them turns.
                             {13, 7, 64, 0, 0, false, 8},
                             {13, 7, 64, 0, 0, true, 8},
                             {5, 9, 48, 16, 32, false, 0},
                             {5, 2, 192, 128, 64, true, 0},
                             {5, 3, 24, 8, 8, true, 8},
                             {5, 3, 24, 8, 8, false, 8},
                             {65, 1, 12, 0, 12, true, 4}};
constexpr std::int64_t kPositions = 50;

struct Tables {
  std::vector<float> cos, sin;
  explicit Tables(std::int64_t half) {
    for (std::int64_t p = 0; p < kPositions; ++p)
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
  }
};

template <class R>
std::vector<R> reference(const Shape& s, std::vector<R> x, const std::vector<std::int32_t>& pos, const Tables& t, R sign) {
  const std::int64_t half = s.half();
  for (std::int64_t row = 0; row < s.T * s.heads; ++row)
    for (std::int64_t i = 0; i < half; ++i) {
      const std::int64_t begin = row * s.S + s.first;
      R &a = x[begin + (s.interleaved ? 2 * i : i)], &b = x[begin + (s.interleaved ? 2 * i + 1 : half + i)];
      const std::int64_t at = pos[row / s.heads] * half + i;
      const R c = t.cos[at], n = sign * R(t.sin[at]), a_old = a, b_old = b;
      a = a_old * c - b_old * n;
      b = b_old * c + a_old * n;
    }
  return x;
}

TEST(Rope, AgreesWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType t : kDTypes) {
        const Tables tables(s.half());
        const auto pos = random_ints(s.T, 5, 0, kPositions);
        for (const float sign : {1.0f, -1.0f}) {
          TestMat x = TestMat::random(t, s.T, s.heads * s.S, 1, s.pad);
          const auto naive = reference<float>(s, x.values(), pos, tables, sign);
          const auto truth = reference<double>(s, x.values<double>(), pos, tables, sign);
          Stream stream(kernel_device(), 2);
          (sign > 0 ? k->rope.forward : k->rope.backward)(stream, x.view(), s.rope(), pos, tables.cos.data(),
                                                          tables.sin.data());
          EXPECT_TRUE(as_good_as_naive(x.values(), naive, truth, t)) << k->isa << " T " << s.T << " S " << s.S;
          EXPECT_TRUE(x.padding_is_intact());
        }
      }
}

class RopeConvention : public ::testing::TestWithParam<bool> {};
INSTANTIATE_TEST_SUITE_P(Rope, RopeConvention, ::testing::Bool());

TEST_P(RopeConvention, BackwardIsTheGradientAndUndoesTheRotation) {
  const Shape s{17, 3, 22, 2, 18, GetParam()};
  const Tables tables(s.half());
  const auto pos = random_ints(s.T, 5, 0, kPositions);
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 2);
    TestMat x = TestMat::random(DType::kF32, s.T, s.heads * s.S, 1),
            dy = TestMat::random(DType::kF32, s.T, s.heads * s.S, 2);
    const auto before = x.values<double>(), weights = dy.values<double>();
    k->rope.backward(stream, dy.view(), s.rope(), pos, tables.cos.data(), tables.sin.data());
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, v, pos, tables, 1.0), weights); }, before,
                    dy.values());
    k->rope.forward(stream, x.view(), s.rope(), pos, tables.cos.data(), tables.sin.data());
    k->rope.backward(stream, x.view(), s.rope(), pos, tables.cos.data(), tables.sin.data());
    const auto after = x.values();
    EXPECT_TRUE(close_to(std::span(after), std::span(before), 1e-6));
  }
}

TEST_P(RopeConvention, BitsDoNotDependOnThreads) {
  const Shape s{301, 2, 62, 0, 0, GetParam()};
  const Tables tables(s.half());
  const auto pos = random_ints(s.T, 5, 0, kPositions);
  for (const Kernels* k : all_isas())
    expect_same_bits_with_any_threads([&](Stream& stream) {
      TestMat x = TestMat::random(DType::kF32, s.T, s.heads * s.S, 1);
      k->rope.forward(stream, x.view(), s.rope(), pos, tables.cos.data(), tables.sin.data());
      return x.values();
    });
}

TEST(Rope, RefusesShapes) {
  TestMat x(DType::kF32, 3, 8);
  Stream stream(kernel_device(), 1);
  const std::vector<float> table(100);
  const std::vector<std::int32_t> three(3), two(2), negative{0, -1, 0};
  for (const Kernels* k : all_isas()) {
    EXPECT_THROW(k->rope.forward(stream, x.view(), {3}, three, table.data(), table.data()), std::invalid_argument);
    EXPECT_THROW(k->rope.forward(stream, x.view(), {6}, three, table.data(), table.data()), std::invalid_argument);
    EXPECT_THROW(k->rope.forward(stream, x.view(), {4, 1}, three, table.data(), table.data()), std::invalid_argument);
    EXPECT_THROW(k->rope.forward(stream, x.view(), {4, 2, 4}, three, table.data(), table.data()), std::invalid_argument);
    EXPECT_THROW(k->rope.forward(stream, x.view(), {4, -2, 4}, three, table.data(), table.data()), std::invalid_argument);
    EXPECT_THROW(k->rope.forward(stream, x.view(), {4}, two, table.data(), table.data()), std::invalid_argument);
    if (tests_cuda()) continue;  // values are not looked at
    EXPECT_THROW(k->rope.backward(stream, x.view(), {4}, negative, table.data(), table.data()), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
