// Root mean square norm: against plain loops, finite differences of the formula in double, any number of threads.
#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t T;
  int groups;
  std::int64_t G;
  std::int64_t pad = 1;  // factor on the elements that follow a row: with 8, all rows begin at multiples of 16 bytes
};
// The last ones: rows that a GPU's threads read in packs, and rows wider than their registers.
constexpr Shape kShapes[] = {{1, 1, 1},      {7, 1, 7},    {13, 3, 16},    {131, 2, 37},   {257, 1, 256},
                             {70, 4, 64},    {0, 1, 5},    {9, 1, 8, 8},   {33, 3, 64, 8}, {2, 1, 520, 8},
                             {65, 1, 24, 8}, {2, 1, 2600}, {2, 1, 8712, 8}};
constexpr float kEps = 1e-5f;

template <class R>
struct Reference {
  std::vector<R> y, rstd, dx, dw;
};
template <class R>
Reference<R> reference(const Shape& s, const std::vector<R>& x, const std::vector<R>& w, const std::vector<R>& dy) {
  Reference<R> r{std::vector<R>(x.size()), {}, std::vector<R>(x.size()), std::vector<R>(w.size())};
  for (std::int64_t row = 0; row < s.T * s.groups; ++row) {
    const R *xr = &x[row * s.G], *dyr = &dy[row * s.G];
    R sum_x2 = 0, sum_dywx = 0;
    for (std::int64_t j = 0; j < s.G; ++j) sum_x2 += xr[j] * xr[j], sum_dywx += dyr[j] * w[j] * xr[j];
    const R rstd = R(1) / std::sqrt(sum_x2 / R(s.G) + R(kEps));
    r.rstd.push_back(rstd);
    for (std::int64_t j = 0; j < s.G; ++j) {
      r.y[row * s.G + j] = xr[j] * rstd * w[j];
      r.dx[row * s.G + j] = rstd * (dyr[j] * w[j] - xr[j] * rstd * rstd * sum_dywx / R(s.G));
      r.dw[j] += dyr[j] * xr[j] * rstd;
    }
  }
  return r;
}

struct Result {
  TestMat y, dx, dx_added;
  std::vector<float> rstd, dw;
};
Result run(const Kernels& k, Stream& stream, const Shape& s, TestMat& x, TestMat& w, TestMat& dy, float old) {
  const DType t = x.dtype();
  const std::int64_t C = s.groups * s.G;
  Result r{TestMat(t, s.T, C, 2 * s.pad), TestMat(t, s.T, C, s.pad), TestMat(t, s.T, C), std::vector<float>(s.T * s.groups),
           std::vector<float>(s.G, old)};
  for (std::int64_t i = 0; i < s.T * C; ++i) r.dx_added.set(i / C, i % C, old);
  k.rmsnorm.forward(stream, x.view(), w.view(), s.groups, kEps, r.y.view(), r.rstd.data());
  k.rmsnorm.backward_input(stream, dy.view(), x.view(), w.view(), s.groups, r.rstd.data(), r.dx.view(), Store::kAssign);
  k.rmsnorm.backward_input(stream, dy.view(), x.view(), w.view(), s.groups, r.rstd.data(), r.dx_added.view(), Store::kAdd);
  k.rmsnorm.backward_weight(stream, dy.view(), x.view(), s.groups, r.rstd.data(), r.dw.data());
  return r;
}

struct Inputs {
  TestMat x, w, dy;
  Inputs(const Shape& s, DType t)
      : x(TestMat::random(t, s.T, s.groups * s.G, 1, 3 * s.pad)),
        w(TestMat::random(t, 1, s.G, 2)),
        dy(TestMat::random(t, s.T, s.groups * s.G, 3, s.pad)) {}
};

TEST(RmsNorm, AgreesWithPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType t : kDTypes) {
        if (!tests_cuda() && s.G > 5000) continue;  // registers of a GPU's threads only
        SCOPED_TRACE(std::string(k->isa) + " " + name_of(t) + " T " + std::to_string(s.T) + " G " + std::to_string(s.G));
        Inputs in(s, t);
        Stream stream(kernel_device(), 2);
        const Result got = run(*k, stream, s, in.x, in.w, in.dy, 0.0f);
        const auto naive = reference<float>(s, in.x.values(), in.w.values(), in.dy.values());
        const auto truth = reference<double>(s, in.x.values<double>(), in.w.values<double>(), in.dy.values<double>());
        EXPECT_TRUE(as_good_as_naive(got.y.values(), naive.y, truth.y, t));
        EXPECT_TRUE(as_good_as_naive(got.rstd, naive.rstd, truth.rstd));
        EXPECT_TRUE(as_good_as_naive(got.dx.values(), naive.dx, truth.dx, t));
        EXPECT_TRUE(as_good_as_naive(got.dw, naive.dw, truth.dw));
        EXPECT_TRUE(got.y.padding_is_intact() && got.dx.padding_is_intact());
      }
}

// Operands of different types, in rows that begin at multiples of 16 bytes and elsewhere.
TEST(RmsNorm, TypesMayDiffer) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : {Shape{5, 2, 48, 8}, Shape{5, 2, 13}})
      for (int types = 0; types < 16; ++types) {
        const auto type = [&](int i) { return kDTypes[types >> i & 1]; };
        const std::int64_t C = s.groups * s.G;
        const TestMat x = TestMat::random(type(0), s.T, C, 1, s.pad), w = TestMat::random(type(1), 1, s.G, 2),
                      dy = TestMat::random(type(2), s.T, C, 3, 3 * s.pad);
        TestMat y(type(3), s.T, C, s.pad), dx(type(3), s.T, C, 2 * s.pad);
        std::vector<float> rstd(s.T * s.groups), dw(s.G);
        Stream stream(kernel_device(), 2);
        k->rmsnorm.forward(stream, x.view(), w.view(), s.groups, kEps, y.view(), rstd.data());
        k->rmsnorm.backward_input(stream, dy.view(), x.view(), w.view(), s.groups, rstd.data(), dx.view(), Store::kAssign);
        k->rmsnorm.backward_weight(stream, dy.view(), x.view(), s.groups, rstd.data(), dw.data());
        const auto naive = reference<float>(s, x.values(), w.values(), dy.values());
        const auto truth = reference<double>(s, x.values<double>(), w.values<double>(), dy.values<double>());
        EXPECT_TRUE(as_good_as_naive(y.values(), naive.y, truth.y, type(3))) << k->isa << " types " << types;
        EXPECT_TRUE(as_good_as_naive(dx.values(), naive.dx, truth.dx, type(3))) << k->isa << " types " << types;
        EXPECT_TRUE(as_good_as_naive(dw, naive.dw, truth.dw)) << k->isa << " types " << types;
        EXPECT_TRUE(y.padding_is_intact() && dx.padding_is_intact());
      }
}

TEST(RmsNorm, AddsToResidualAndWeightGradient) {
  const Shape s{19, 2, 23};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    Stream stream(kernel_device(), 2);
    const Result zero = run(*k, stream, s, in.x, in.w, in.dy, 0.0f), three = run(*k, stream, s, in.x, in.w, in.dy, 3.0f);
    const auto a = zero.dx.values(), b = three.dx_added.values();
    for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i] + 3, b[i], 1e-6);
    for (std::size_t i = 0; i < zero.dw.size(); ++i) EXPECT_NEAR(zero.dw[i] + 3, three.dw[i], 2e-6);
  }
}

TEST(RmsNorm, GradientIsThatOfTheFormula) {
  const Shape s{11, 2, 29};
  for (const Kernels* k : all_isas()) {
    Inputs in(s, DType::kF32);
    Stream stream(kernel_device(), 2);
    const Result got = run(*k, stream, s, in.x, in.w, in.dy, 0.0f);
    const auto x = in.x.values<double>(), w = in.w.values<double>(), dy = in.dy.values<double>();
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, v, w, dy).y, dy); }, x, got.dx.values());
    expect_gradient([&](const auto& v) { return dot(reference<double>(s, x, v, dy).y, dy); }, w, got.dw);
  }
}

TEST(RmsNorm, InputGradientMayReplaceOutputGradient) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : {Shape{9, 1, 37}, Shape{9, 1, 72, 8}, Shape{2, 1, 8712, 8}}) {
      Inputs in(s, DType::kF32);
      Stream stream(kernel_device(), 2);
      const Result want = run(*k, stream, s, in.x, in.w, in.dy, 0.0f);
      k->rmsnorm.backward_input(stream, in.dy.view(), in.x.view(), in.w.view(), 1, want.rstd.data(), in.dy.view(),
                                Store::kAssign);
      EXPECT_EQ(in.dy.values(), want.dx.values());
    }
}

TEST(RmsNorm, BitsDoNotDependOnThreads) {
  const Shape s{on_host() ? 67 : 331, 1, 203};
  for (const Kernels* k : all_isas())
    for (const DType t : kDTypes) {
      Inputs in(s, t);
      expect_same_bits_with_any_threads([&](Stream& stream) {
        const Result r = run(*k, stream, s, in.x, in.w, in.dy, 0.0f);
        std::vector<float> all = r.y.values();
        for (const auto& part : {r.dx.values(), r.dx_added.values(), r.rstd, r.dw})
          all.insert(all.end(), part.begin(), part.end());
        return all;
      });
    }
}

TEST(RmsNorm, RefusesShapesAndNamesItself) {
  TestMat x(DType::kF32, 3, 8), w(DType::kF32, 1, 8), y(DType::kF32, 3, 7);
  std::vector<float> rstd(24), dw(8);
  Stream stream(kernel_device(), 1);
  for (const Kernels* k : all_isas()) {
    const RmsNormKernels& n = k->rmsnorm;
    EXPECT_THROW(n.forward(stream, x.view(), w.view(), 1, kEps, y.view(), rstd.data()), std::invalid_argument);
    EXPECT_THROW(n.forward(stream, x.view(), w.view(), 3, kEps, x.view(), rstd.data()), std::invalid_argument);
    EXPECT_THROW(n.backward_weight(stream, y.view(), x.view(), 1, rstd.data(), dw.data()), std::invalid_argument);
    try {
      n.backward_input(stream, y.view(), x.view(), w.view(), 1, rstd.data(), x.view(), Store::kAssign);
      ADD_FAILURE() << "not refused";
    } catch (const std::invalid_argument& e) {
      EXPECT_STREQ(e.what(), "rmsnorm.backward_input: expected dy of 3 x 8, found 3 x 7 with row stride 7");
    }
  }
}

}  // namespace
}  // namespace moe
