// SwiGLU: against plain loops, finite differences in double, extreme inputs, any number of threads.
#include <algorithm>
#include <limits>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t R, F;
  std::int64_t pad = 1;  // factor on the elements that follow a row: with 8, all rows begin at multiples of 16 bytes
};
// The last ones: rows that a GPU's threads read in packs, and rows wider than their registers.
constexpr Shape kShapes[] = {{1, 1},    {7, 7},      {13, 16},    {31, 37},   {5, 257},     {0, 8},
                             {9, 8, 8}, {17, 24, 8}, {5, 136, 8}, {11, 1100}, {11, 4136, 8}};

template <class R>
struct Reference {
  std::vector<R> h, dgu, dgate;
};
// limit > 0: the clamped form.
template <class R>
Reference<R> reference(const Shape& s, const std::vector<R>& gu, const std::vector<R>& gate, const std::vector<R>& dh,
                       float limit = 0) {
  Reference<R> out{std::vector<R>(s.R * s.F), std::vector<R>(2 * s.R * s.F), std::vector<R>(s.R)};
  for (std::int64_t r = 0; r < s.R; ++r)
    for (std::int64_t j = 0; j < s.F; ++j) {
      const R g = gu[r * 2 * s.F + j], u = gu[r * 2 * s.F + s.F + j], d = dh[r * s.F + j];
      const bool clamped = limit > 0;
      const R z = clamped ? std::min(g, R(limit)) : g, up = clamped ? std::clamp(u, R(-limit), R(limit)) + R(1) : u;
      const R alpha = clamped ? R(1.702f) : R(1), a = R(1) / (R(1) + std::exp(-alpha * z));
      out.h[r * s.F + j] = gate[r] * z * a * up;
      out.dgu[r * 2 * s.F + j] = z < g ? R(0) : gate[r] * d * up * a * (R(1) + alpha * z * (R(1) - a));
      out.dgu[r * 2 * s.F + s.F + j] = clamped && std::fabs(u) > R(limit) ? R(0) : gate[r] * d * z * a;
      out.dgate[r] += d * z * a * up;
    }
  return out;
}

struct Inputs {
  TestMat gu, dh;
  std::vector<float> gate;
  Inputs(const Shape& s, DType t)
      : gu(TestMat::random(t, s.R, 2 * s.F, 1, 3 * s.pad, 6)),
        dh(TestMat::random(t, s.R, s.F, 2, s.pad)),
        gate(random_floats(s.R, 3)) {}
};

TEST(Swiglu, AgreesWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType t : kDTypes)
        for (const auto& [gated, limit] : {std::pair{true, 0.0f}, {false, 0.0f}, {true, 2.5f}, {false, 7.0f}}) {
          SCOPED_TRACE(std::string(k->isa) + " " + name_of(t) + " F " + std::to_string(s.F) + " limit " +
                       std::to_string(limit));
          Inputs in(s, t);
          if (!gated) in.gate.assign(in.gate.size(), 1.0f);
          const float* gate = gated ? in.gate.data() : nullptr;
          TestMat h(t, s.R, s.F, 2 * s.pad), dgu(t, s.R, 2 * s.F, s.pad);
          std::vector<float> dgate(s.R);
          Stream stream(kernel_device(), 2);
          k->swiglu.forward(stream, {limit}, in.gu.view(), gate, h.view());
          k->swiglu.backward_input(stream, {limit}, in.dh.view(), in.gu.view(), gate, dgu.view(), dgate.data());
          const auto naive = reference<float>(s, in.gu.values(), in.gate, in.dh.values(), limit);
          const auto truth = reference<double>(s, in.gu.values<double>(), doubles(in.gate), in.dh.values<double>(), limit);
          EXPECT_TRUE(as_good_as_naive(h.values(), naive.h, truth.h, t));
          EXPECT_TRUE(as_good_as_naive(dgu.values(), naive.dgu, truth.dgu, t));
          EXPECT_TRUE(as_good_as_naive(dgate, naive.dgate, truth.dgate));
          EXPECT_TRUE(h.padding_is_intact() && dgu.padding_is_intact());
          // In place, without the gate's gradient.
          k->swiglu.backward_input(stream, {limit}, in.dh.view(), in.gu.view(), gate, in.gu.view(), nullptr);
          EXPECT_EQ(in.gu.values(), dgu.values());
        }
}

// Operands of different types, in rows that begin at multiples of 16 bytes and elsewhere.
TEST(Swiglu, TypesMayDiffer) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : {Shape{5, 48, 8}, Shape{5, 13}})
      for (int types = 0; types < 16; ++types) {
        const auto type = [&](int i) { return kDTypes[types >> i & 1]; };
        const TestMat gu = TestMat::random(type(0), s.R, 2 * s.F, 1, s.pad, 6), dh = TestMat::random(type(1), s.R, s.F, 2);
        TestMat h(type(2), s.R, s.F, s.pad), dgu(type(3), s.R, 2 * s.F, 2 * s.pad);
        const std::vector<float> ones(s.R, 1.0f);
        std::vector<float> dgate(s.R);
        Stream stream(kernel_device(), 2);
        k->swiglu.forward(stream, {}, gu.view(), nullptr, h.view());
        k->swiglu.backward_input(stream, {}, dh.view(), gu.view(), nullptr, dgu.view(), dgate.data());
        const auto naive = reference<float>(s, gu.values(), ones, dh.values());
        const auto truth = reference<double>(s, gu.values<double>(), doubles(ones), dh.values<double>());
        EXPECT_TRUE(as_good_as_naive(h.values(), naive.h, truth.h, type(2))) << k->isa << " types " << types;
        EXPECT_TRUE(as_good_as_naive(dgu.values(), naive.dgu, truth.dgu, type(3))) << k->isa << " types " << types;
        EXPECT_TRUE(as_good_as_naive(dgate, naive.dgate, truth.dgate)) << k->isa << " types " << types;
        EXPECT_TRUE(h.padding_is_intact() && dgu.padding_is_intact());
      }
}

TEST(Swiglu, GradientIsThatOfTheFormula) {
  const Shape s{7, 23};
  for (const Kernels* k : all_isas())
    for (const float limit : {0.0f, 2.5f}) {
      Inputs in(s, DType::kF32);
      TestMat dgu(DType::kF32, s.R, 2 * s.F);
      std::vector<float> dgate(s.R);
      Stream stream(kernel_device(), 2);
      k->swiglu.backward_input(stream, {limit}, in.dh.view(), in.gu.view(), in.gate.data(), dgu.view(), dgate.data());
      const auto gu = in.gu.values<double>(), dh = in.dh.values<double>(), gate = doubles(in.gate);
      expect_gradient([&](const auto& v) { return dot(reference<double>(s, v, gate, dh, limit).h, dh); }, gu, dgu.values());
      expect_gradient([&](const auto& v) { return dot(reference<double>(s, gu, v, dh, limit).h, dh); }, gate, dgate);
    }
}

TEST(Swiglu, LargeInputsStayFiniteAndNanShows) {
  const float nan = std::nanf("");
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> gu{-1000, -100, -88, 100, 1000, nan, 1, 1, 1, 1, 1, 1}, h(6), dh(6, 1.0f), dgu(12);
    k->swiglu.forward(stream, {}, mat(gu.data(), 1, 12), nullptr, mat(h.data(), 1, 6));
    k->swiglu.backward_input(stream, {}, mat(dh.data(), 1, 6), mat(gu.data(), 1, 12), nullptr, mat(dgu.data(), 1, 12),
                             nullptr);
    EXPECT_NEAR(h[0], 0, 1e-30);
    EXPECT_NEAR(h[1], 0, 1e-30);
    EXPECT_EQ(h[3], 100);
    EXPECT_EQ(h[4], 1000);
    EXPECT_NEAR(dgu[0], 0, 1e-30);
    EXPECT_EQ(dgu[4], 1);
    EXPECT_TRUE(std::isnan(h[5]) && std::isnan(dgu[5]));
    for (int i = 0; i < 5; ++i) EXPECT_TRUE(std::isfinite(dgu[i]) && std::isfinite(dgu[6 + i])) << i;
  }
}

// At the limit itself the gradient passes; beyond it there is none. Not-a-number shows in either half.
TEST(Swiglu, LimitCutsValuesAndGradients) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> gu{7, 8, -inf, 1, 1, 1, nan, 1, 0, 0, 0, 7, 9, -inf, 0, nan}, h(8), dh(8, 1.0f), dgu(16), dgate(1);
    k->swiglu.forward(stream, {7}, mat(gu.data(), 1, 16), nullptr, mat(h.data(), 1, 8));
    k->swiglu.backward_input(stream, {7}, mat(dh.data(), 1, 8), mat(gu.data(), 1, 16), nullptr, mat(dgu.data(), 1, 16),
                             dgate.data());
    EXPECT_NEAR(h[0], 7, 1e-4);
    EXPECT_EQ(h[1], h[0]);
    EXPECT_NEAR(h[3], 8 * h[4] / 8, 1e-6);
    EXPECT_NEAR(h[5], -6 / (1 + std::exp(-1.702)), 1e-5);
    EXPECT_NE(dgu[0], 0);
    EXPECT_EQ(dgu[1], 0);
    EXPECT_NE(dgu[8 + 3], 0);
    EXPECT_EQ(dgu[8 + 4], 0);
    EXPECT_EQ(dgu[8 + 5], 0);
    EXPECT_TRUE(std::isnan(h[6]) && std::isnan(h[7]) && std::isnan(dgu[6]) && std::isnan(dgu[7]) && std::isnan(dgate[0]));
  }
}

TEST(Swiglu, BitsDoNotDependOnThreads) {
  const Shape s{211, 131};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    expect_same_bits_with_any_threads([&](Stream& stream) {
      TestMat dgu(DType::kF32, s.R, 2 * s.F);
      std::vector<float> dgate(s.R);
      k->swiglu.backward_input(stream, {}, in.dh.view(), in.gu.view(), in.gate.data(), dgu.view(), dgate.data());
      std::vector<float> all = dgu.values();
      all.insert(all.end(), dgate.begin(), dgate.end());
      return all;
    });
  }
}

TEST(Swiglu, RefusesShapes) {
  TestMat gu(DType::kF32, 3, 8), h(DType::kF32, 3, 5);
  Stream stream(kernel_device(), 1);
  for (const Kernels* k : all_isas()) {
    EXPECT_THROW(k->swiglu.forward(stream, {}, gu.view(), nullptr, h.view()), std::invalid_argument);
    EXPECT_THROW(k->swiglu.backward_input(stream, {}, h.view(), gu.view(), nullptr, gu.view(), nullptr),
                 std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
