// SwiGLU: against plain loops, finite differences in double, extreme inputs, any number of threads.
#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t R, F;
};
constexpr Shape kShapes[] = {{1, 1}, {7, 7}, {13, 16}, {31, 37}, {5, 257}, {0, 8}};

template <class R>
struct Reference {
  std::vector<R> h, dgu, dgate;
};
template <class R>
Reference<R> reference(const Shape& s, const std::vector<R>& gu, const std::vector<R>& gate, const std::vector<R>& dh) {
  Reference<R> out{std::vector<R>(s.R * s.F), std::vector<R>(2 * s.R * s.F), std::vector<R>(s.R)};
  for (std::int64_t r = 0; r < s.R; ++r)
    for (std::int64_t j = 0; j < s.F; ++j) {
      const R g = gu[r * 2 * s.F + j], u = gu[r * 2 * s.F + s.F + j], d = dh[r * s.F + j];
      const R a = R(1) / (R(1) + std::exp(-g));
      out.h[r * s.F + j] = gate[r] * g * a * u;
      out.dgu[r * 2 * s.F + j] = gate[r] * d * u * a * (R(1) + g * (R(1) - a));
      out.dgu[r * 2 * s.F + s.F + j] = gate[r] * d * g * a;
      out.dgate[r] += d * g * a * u;
    }
  return out;
}

struct Inputs {
  TestMat gu, dh;
  std::vector<float> gate;
  Inputs(const Shape& s, DType t)
      : gu(TestMat::random(t, s.R, 2 * s.F, 1, 3, 6)), dh(TestMat::random(t, s.R, s.F, 2, 1)), gate(random_floats(s.R, 3)) {}
};

TEST(Swiglu, AgreesWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType t : kDTypes)
        for (const bool gated : {true, false}) {
          SCOPED_TRACE(std::string(k->isa) + " " + name_of(t) + " F " + std::to_string(s.F));
          Inputs in(s, t);
          if (!gated) in.gate.assign(in.gate.size(), 1.0f);
          const float* gate = gated ? in.gate.data() : nullptr;
          TestMat h(t, s.R, s.F, 2), dgu(t, s.R, 2 * s.F, 1);
          std::vector<float> dgate(s.R);
          Stream stream(2);
          k->swiglu.forward(stream, in.gu.view(), gate, h.view());
          k->swiglu.backward_input(stream, in.dh.view(), in.gu.view(), gate, dgu.view(), dgate.data());
          const auto naive = reference<float>(s, in.gu.values(), in.gate, in.dh.values());
          const auto truth = reference<double>(s, in.gu.values<double>(), doubles(in.gate), in.dh.values<double>());
          EXPECT_TRUE(as_good_as_naive(h.values(), naive.h, truth.h, t));
          EXPECT_TRUE(as_good_as_naive(dgu.values(), naive.dgu, truth.dgu, t));
          EXPECT_TRUE(as_good_as_naive(dgate, naive.dgate, truth.dgate));
          EXPECT_TRUE(h.padding_is_intact() && dgu.padding_is_intact());
          // In place, without the gate's gradient.
          k->swiglu.backward_input(stream, in.dh.view(), in.gu.view(), gate, in.gu.view(), nullptr);
          EXPECT_EQ(in.gu.values(), dgu.values());
        }
}

TEST(Swiglu, GradientIsThatOfTheFormula) {
  const Shape s{7, 23};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    TestMat dgu(DType::kF32, s.R, 2 * s.F);
    std::vector<float> dgate(s.R);
    Stream stream(2);
    k->swiglu.backward_input(stream, in.dh.view(), in.gu.view(), in.gate.data(), dgu.view(), dgate.data());
    const auto gu = in.gu.values<double>(), dh = in.dh.values<double>(), gate = doubles(in.gate);
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, v, gate, dh).h, dh); }, gu, dgu.values());
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, gu, v, dh).h, dh); }, gate, dgate);
  }
}

TEST(Swiglu, LargeInputsStayFiniteAndNanShows) {
  const float nan = std::nanf("");
  for (const Kernels* k : all_isas()) {
    Stream stream(1);
    std::vector<float> gu{-1000, -100, -88, 100, 1000, nan, 1, 1, 1, 1, 1, 1}, h(6), dh(6, 1.0f), dgu(12);
    k->swiglu.forward(stream, mat(gu.data(), 1, 12), nullptr, mat(h.data(), 1, 6));
    k->swiglu.backward_input(stream, mat(dh.data(), 1, 6), mat(gu.data(), 1, 12), nullptr, mat(dgu.data(), 1, 12), nullptr);
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

TEST(Swiglu, BitsDoNotDependOnThreads) {
  const Shape s{211, 131};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    expect_same_bits_with_any_threads([&](Stream& stream) {
      TestMat dgu(DType::kF32, s.R, 2 * s.F);
      std::vector<float> dgate(s.R);
      k->swiglu.backward_input(stream, in.dh.view(), in.gu.view(), in.gate.data(), dgu.view(), dgate.data());
      std::vector<float> all = dgu.values();
      all.insert(all.end(), dgate.begin(), dgate.end());
      return all;
    });
  }
}

TEST(Swiglu, RefusesShapes) {
  TestMat gu(DType::kF32, 3, 8), h(DType::kF32, 3, 5);
  Stream stream(1);
  for (const Kernels* k : all_isas()) {
    EXPECT_THROW(k->swiglu.forward(stream, gu.view(), nullptr, h.view()), std::invalid_argument);
    EXPECT_THROW(k->swiglu.backward_input(stream, h.view(), gu.view(), nullptr, gu.view(), nullptr), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
