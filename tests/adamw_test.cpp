// AdamW against plain loops over several steps, and the sum of squares; sizes around the chunks that threads share.
#include <algorithm>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct State {
  std::vector<float> w, g, m, v;
  std::vector<BF16> rounded;
  State(std::size_t n, std::uint64_t seed)
      : w(random_floats(n, seed)),
        g(random_floats(n, seed + 1)),
        m(random_floats(n, seed + 2)),
        v(random_floats(n, seed + 3, 0, 1)),
        rounded(n) {}
  AdamWTensor tensor(float decay, bool with_copy) {
    return {w.data(), with_copy ? rounded.data() : nullptr, g.data(), m.data(),
            v.data(), static_cast<std::int64_t>(w.size()),  decay};
  }
};

template <class R>
void reference(std::vector<R>& w, const std::vector<R>& g, std::vector<R>& m, std::vector<R>& v, R decay,
               const AdamWHyper& h) {
  const R b1 = h.beta1, b2 = h.beta2, c1 = R(1) - std::pow(b1, R(h.step)), c2 = R(1) - std::pow(b2, R(h.step));
  for (std::size_t i = 0; i < w.size(); ++i) {
    const R s = g[i] * R(h.grad_scale);
    m[i] = b1 * m[i] + (R(1) - b1) * s;
    v[i] = b2 * v[i] + (R(1) - b2) * s * s;
    w[i] -= R(h.lr) * (m[i] / c1 / (std::sqrt(v[i] / c2) + R(h.eps)) + decay * w[i]);
  }
}

TEST(AdamW, AgreesWithPlainLoopsOverSteps) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {1, 7, 16, 131, 65536, 65539}) {
      SCOPED_TRACE(std::string(k->isa) + " n " + std::to_string(n));
      State s(n, 1);
      auto w = doubles(s.w), m = doubles(s.m), v = doubles(s.v);
      auto w32 = s.w, m32 = s.m, v32 = s.v;
      Stream stream(kernel_device(), 2);
      for (std::int64_t step = 1; step <= 3; ++step) {
        const AdamWHyper h{.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .step = step, .grad_scale = 0.5f};
        s.g = random_floats(n, 10 + static_cast<std::uint64_t>(step));
        reference<double>(w, doubles(s.g), m, v, double{0.01f}, h);
        reference<float>(w32, s.g, m32, v32, 0.01f, h);
        const AdamWTensor tensor = s.tensor(0.01f, step != 2);
        k->adamw.step(stream, {&tensor, 1}, h);
        EXPECT_EQ(s.g, std::vector<float>(n, 0.0f));
      }
      EXPECT_TRUE(as_good_as_naive(s.w, w32, w));
      EXPECT_TRUE(as_good_as_naive(s.m, m32, m));
      EXPECT_TRUE(as_good_as_naive(s.v, v32, v));
      for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(s.rounded[i].bits, to_bf16(s.w[i]).bits) << i;
    }
}

// Moments in bf16: read as float, computed in float, rounded once.
TEST(AdamW, MomentsInBf16AreRoundedOnce) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {1, 37, 65539}) {
      SCOPED_TRACE(std::string(k->isa) + " n " + std::to_string(n));
      State s(n, 1);
      std::vector<BF16> m16(n), v16(n);
      std::transform(s.m.begin(), s.m.end(), m16.begin(), to_bf16);
      std::transform(s.v.begin(), s.v.end(), v16.begin(), to_bf16);
      auto w = s.w, m = s.m, v = s.v;
      Stream stream(kernel_device(), 2);
      for (std::int64_t step = 1; step <= 3; ++step) {
        const AdamWHyper h{.lr = 0.1f, .beta1 = 0.9f, .beta2 = 0.95f, .eps = 1e-8f, .step = step};
        s.g = random_floats(n, 10 + static_cast<std::uint64_t>(step));
        std::transform(m16.begin(), m16.end(), m.begin(), to_float);
        std::transform(v16.begin(), v16.end(), v.begin(), to_float);
        reference<float>(w, s.g, m, v, 0.01f, h);
        AdamWTensor tensor = s.tensor(0.01f, step != 2);
        tensor.m = m16.data(), tensor.v = v16.data(), tensor.moments = DType::kBF16;
        k->adamw.step(stream, {&tensor, 1}, h);
        for (std::size_t i = 0; i < n; ++i) {
          ASSERT_LE(std::fabs(to_float(m16[i]) - m[i]), 0.00392f * std::fabs(m[i]) + 1e-6f) << i;
          ASSERT_LE(std::fabs(to_float(v16[i]) - v[i]), 0.00392f * std::fabs(v[i]) + 1e-6f) << i;
          ASSERT_LE(std::fabs(s.w[i] - w[i]), 1e-4f) << i;
        }
        w = s.w;
      }
    }
}

TEST(AdamW, AverageAgreesWithDouble) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {0, 1, 37, 65539}) {
      std::vector<float> mean = random_floats(n, 1), w = random_floats(n, 2);
      std::vector<double> want(n);
      for (std::size_t i = 0; i < n; ++i) want[i] = 0.999 * mean[i] + 0.001 * w[i];
      Stream stream(kernel_device(), 2);
      k->adamw.average(stream, mean, w.data(), 0.999);
      EXPECT_TRUE(close_to(std::span<const float>(mean), std::span<const double>(want), 2e-7)) << k->isa << " " << n;
    }
  Stream stream(kernel_device(), 1);
  std::vector<float> mean(1);
  for (const Kernels* k : all_isas()) EXPECT_THROW(k->adamw.average(stream, mean, mean.data(), 1), std::invalid_argument);
}

// The first step from zero moments moves every weight by lr against the sign of its gradient.
TEST(AdamW, FirstStepIsTheSign) {
  for (const Kernels* k : all_isas()) {
    State s(37, 1);
    const auto before = s.w, gradient = s.g;
    s.m.assign(37, 0.0f), s.v.assign(37, 0.0f);
    const AdamWTensor tensor = s.tensor(0, false);
    Stream stream(kernel_device(), 1);
    k->adamw.step(stream, {&tensor, 1}, {.lr = 0.25f, .step = 1});
    for (int i = 0; i < 37; ++i) EXPECT_NEAR(s.w[i], before[i] - 0.25 * (gradient[i] > 0 ? 1 : -1), 1e-6);
  }
}

TEST(AdamW, ListOfTensorsIsEachAloneWithAnyThreads) {
  const std::vector<std::size_t> sizes{0, 3, 65536, 200001, 1, 0, 70000};
  const AdamWHyper h{.lr = 0.1f, .step = 5};
  for (const Kernels* k : all_isas()) {
    std::vector<float> want;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      State s(sizes[i], 100 * i);
      const AdamWTensor tensor = s.tensor(0.1f * static_cast<float>(i), false);
      Stream one(kernel_device(), 1);
      k->adamw.step(one, {&tensor, 1}, h);
      want.insert(want.end(), s.w.begin(), s.w.end());
    }
    for (const int threads : {1, 2, 3, 7}) {
      std::vector<State> states;
      std::vector<AdamWTensor> tensors;
      for (std::size_t i = 0; i < sizes.size(); ++i) states.emplace_back(sizes[i], 100 * i);
      for (std::size_t i = 0; i < sizes.size(); ++i)
        tensors.push_back(states[i].tensor(0.1f * static_cast<float>(i), i % 2 == 1));
      Stream stream(kernel_device(), threads);
      k->adamw.step(stream, tensors, h);
      std::vector<float> got;
      for (const State& s : states) got.insert(got.end(), s.w.begin(), s.w.end());
      EXPECT_TRUE(same_bits(std::span<const float>(got), std::span<const float>(want)))
          << k->isa << ", " << threads << " threads";
    }
  }
}

// Pieces of one array, many more than a block has threads, of any size and alignment, with moments of both dtypes.
TEST(AdamW, ManyTensorsAndWhereTheyBeginDoNotMatter) {
  constexpr std::size_t kTensors = 400;
  const auto sizes = random_ints(kTensors, 1, 0, 40);
  const AdamWHyper h{.lr = 0.1f, .step = 3, .grad_scale = 0.7f};
  const auto run = [&](const Kernels& k, std::size_t first, bool each_alone) {
    std::size_t n = first;
    for (const int size : sizes) n += static_cast<std::size_t>(size);
    State s(n - first, 5);
    for (auto* values : {&s.w, &s.g, &s.m, &s.v}) values->insert(values->begin(), first, 77.0f);
    std::vector<BF16> m16(n), v16(n), rounded(n);
    for (std::size_t i = 0; i < n; ++i) m16[i] = to_bf16(s.m[i]), v16[i] = to_bf16(s.v[i]);
    std::vector<AdamWTensor> list;
    std::size_t at = first;
    for (std::size_t i = 0; i < kTensors; ++i) {
      const bool half = i % 3 == 0;
      list.push_back({&s.w[at], i % 2 ? &rounded[at] : nullptr, &s.g[at], half ? static_cast<void*>(&m16[at]) : &s.m[at],
                      half ? static_cast<void*>(&v16[at]) : &s.v[at], sizes[i], 0.01f * static_cast<float>(i),
                      half ? DType::kBF16 : DType::kF32});
      at += static_cast<std::size_t>(sizes[i]);
    }
    Stream stream(kernel_device(), 2);
    for (std::size_t i = 0; i < kTensors; i += each_alone ? 1 : kTensors)
      k.adamw.step(stream, std::span(list).subspan(i, each_alone ? 1 : kTensors), h);
    EXPECT_EQ(std::vector<float>(s.g.begin() + static_cast<std::ptrdiff_t>(first), s.g.end()),
              std::vector<float>(n - first, 0.0f));
    std::vector<float> all;
    for (std::size_t i = first; i < n; ++i)
      all.insert(all.end(), {s.w[i], s.m[i], s.v[i], to_float(m16[i]), to_float(v16[i]), to_float(rounded[i])});
    return all;
  };
  for (const Kernels* k : all_isas()) {
    const auto want = run(*k, 0, true);
    EXPECT_TRUE(same_bits(std::span<const float>(run(*k, 0, false)), std::span<const float>(want)));
    EXPECT_TRUE(same_bits(std::span<const float>(run(*k, 3, false)), std::span<const float>(want)));
  }
}

double squares_of(const Kernels& k, Stream& stream, const std::vector<std::span<const float>>& g) {
  return number_of(stream, [&](double* sum) { k.adamw.sum_of_squares(stream, g, sum); });
}

TEST(AdamW, SumsAndAveragesDoNotDependOnTheAlignment) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {5, 64, 9001}) {
      Stream stream(kernel_device(), 2);
      const std::vector<float> g = random_floats(n, 5), w = random_floats(n, 6);
      std::vector<float> moved(n + 1), mean = g;
      std::copy(g.begin(), g.end(), moved.begin() + 1);
      const std::span<float> to(moved.data() + 1, n);
      EXPECT_EQ(squares_of(*k, stream, {to}), squares_of(*k, stream, {g}));
      k->adamw.average(stream, mean, w.data(), 0.9);
      k->adamw.average(stream, to, w.data(), 0.9);
      EXPECT_TRUE(same_bits(std::span<const float>(to), std::span<const float>(mean)));
    }
}

TEST(AdamW, SumOfSquares) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {0, 1, 7, 4097, 65536, 300007}) {
      const auto g = random_floats(n, 5);
      Stream one(kernel_device(), 1), three(kernel_device(), 3);
      const double got = squares_of(*k, one, {g}), want = dot(g, g);
      EXPECT_LE(std::fabs(got - want), 3e-7 * want) << k->isa << " n " << n;
      EXPECT_EQ(got, squares_of(*k, three, {g}));
    }
}

// Vectors of a list, some of them empty, some not aligned, more chunks than blocks take; what was there before stays in it.
TEST(AdamW, SumOfSquaresOfAList) {
  for (const Kernels* k : all_isas()) {
    std::vector<std::vector<float>> parts;
    std::vector<std::span<const float>> list = {{}};
    double want = 0.5;
    for (const std::size_t n : {7, 1, 40000, 65536, 3, 32769, 100001}) {
      parts.push_back(random_floats(n + 1, n));
      list.push_back(std::span<const float>(parts.back()).subspan(parts.size() % 2));
      list.push_back({});
      for (const float x : list[list.size() - 2]) want += double{x} * double{x};
    }
    Stream one(kernel_device(), 1), three(kernel_device(), 3);
    std::vector<double> sum = {0.5};
    k->adamw.sum_of_squares(one, list, sum.data());
    one.synchronize();
    EXPECT_LE(std::fabs(sum[0] - want), 3e-7 * want) << k->isa;
    EXPECT_EQ(squares_of(*k, one, list), squares_of(*k, three, list));
    EXPECT_EQ(squares_of(*k, one, {}), 0);
  }
}

TEST(AdamW, SumOfSquaresShowsWhatIsNotFinite) {
  for (const Kernels* k : all_isas())
    for (const float bad : {std::nanf(""), HUGE_VALF, -HUGE_VALF})
      for (const std::size_t at : {0, 17, 99999, 100000}) {
        std::vector<float> g(100001, 0.5f);
        g[at] = bad;
        Stream stream(kernel_device(), 2);
        EXPECT_FALSE(std::isfinite(squares_of(*k, stream, {g}))) << k->isa << " element " << at;
      }
}

TEST(AdamW, RefusesMissingState) {
  for (const Kernels* k : all_isas()) {
    State s(5, 1);
    AdamWTensor tensor = s.tensor(0, false);
    Stream stream(kernel_device(), 1);
    EXPECT_THROW(k->adamw.step(stream, {&tensor, 1}, {.step = 0}), std::invalid_argument);
    tensor.v = nullptr;
    EXPECT_THROW(k->adamw.step(stream, {&tensor, 1}, {.step = 1}), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
