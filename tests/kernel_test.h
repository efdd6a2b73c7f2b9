// What the tests of kernels share: matrices of either dtype with padded rows, the kernels to judge (kernel_device.h),
// and three judgements: as good as a naive float loop, the same bits with any number of threads, and a derivative that
// agrees with finite differences. References are templates over the number type: float is naive, double is the truth.
#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kernels/kernels.h"
#include "tests/compare.h"
#include "tests/kernel_device.h"
#include "tests/random.h"

namespace moe {

inline constexpr DType kDTypes[] = {DType::kF32, DType::kBF16};

// An owned matrix. `pad` extra elements follow each row; they hold 77 and must still do so after a kernel.
class TestMat {
 public:
  TestMat(DType t, std::int64_t rows, std::int64_t cols, std::int64_t pad = 0)
      : dtype_(t),
        rows_(rows),
        cols_(cols),
        stride_(cols + pad),
        f32_(static_cast<std::size_t>(rows * stride_)),
        bf16_(f32_.size()) {
    for (std::int64_t i = 0; i < rows; ++i)
      for (std::int64_t j = cols; j < stride_; ++j) set(i, j, 77);
  }
  static TestMat random(DType t, std::int64_t rows, std::int64_t cols, std::uint64_t seed, std::int64_t pad = 0,
                        float range = 1) {
    TestMat m(t, rows, cols, pad);
    const auto v = random_floats(static_cast<std::size_t>(rows * cols), seed, -range, range);
    for (std::int64_t i = 0; i < rows * cols; ++i) m.set(i / cols, i % cols, v[static_cast<std::size_t>(i)]);
    return m;
  }
  Mat view() {
    return {dtype_ == DType::kF32 ? static_cast<void*>(f32_.data()) : bf16_.data(), dtype_, rows_, cols_, stride_};
  }
  CMat view() const { return const_cast<TestMat*>(this)->view(); }
  void set(std::int64_t i, std::int64_t j, float v) {
    f32_[static_cast<std::size_t>(i * stride_ + j)] = v;
    bf16_[static_cast<std::size_t>(i * stride_ + j)] = to_bf16(v);
  }
  float at(std::int64_t i, std::int64_t j) const {
    const auto k = static_cast<std::size_t>(i * stride_ + j);
    return dtype_ == DType::kF32 ? f32_[k] : to_float(bf16_[k]);
  }
  // The elements without padding.
  template <class R = float>
  std::vector<R> values() const {
    std::vector<R> v;
    for (std::int64_t i = 0; i < rows_; ++i)
      for (std::int64_t j = 0; j < cols_; ++j) v.push_back(static_cast<R>(at(i, j)));
    return v;
  }
  bool padding_is_intact() const {
    for (std::int64_t i = 0; i < rows_; ++i)
      for (std::int64_t j = cols_; j < stride_; ++j)
        if (at(i, j) != 77) return false;
    return true;
  }
  DType dtype() const { return dtype_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }

 private:
  DType dtype_;
  std::int64_t rows_, cols_, stride_;
  std::vector<float> f32_;
  std::vector<BF16> bf16_;
};

// Error against the truth at most twice that of the naive float loop, and a little (elementary functions, one rounding
// to bf16 where the output is stored so).
inline ::testing::AssertionResult as_good_as_naive(const std::vector<float>& got, const std::vector<float>& naive,
                                                   const std::vector<double>& truth, DType out = DType::kF32) {
  const double naive_error = worst_error(std::span(naive), std::span(truth)).relative;
  const double rounding = out == DType::kBF16 ? 0x1p-8 : 0.0;
  return close_to(std::span(got), std::span(truth), 2 * naive_error + 4e-7 + rounding);
}

// run(stream) returns everything that a kernel computed; it must not depend on the number of threads.
inline void expect_same_bits_with_any_threads(const std::function<std::vector<float>(Stream&)>& run) {
  Stream one(kernel_device(), 1);
  const std::vector<float> want = run(one);
  for (const int n : {2, 3}) {
    Stream stream(kernel_device(), n);
    const std::vector<float> got = run(stream);
    EXPECT_TRUE(same_bits(std::span(got), std::span(want))) << n << " threads";
  }
}

// What run(double*) adds to 0.
inline double number_of(Stream& stream, const std::function<void(double*)>& run) {
  std::vector<double> sum(1);
  run(sum.data());
  stream.synchronize();
  return sum[0];
}

inline std::vector<double> doubles(const std::vector<float>& v) { return {v.begin(), v.end()}; }

template <class A, class B>
double dot(const std::vector<A>& a, const std::vector<B>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

// The gradient `grad` of f (in double) at x along three random directions. `floor` is the size of terms that cancel.
inline void expect_gradient(const std::function<double(const std::vector<double>&)>& f, const std::vector<double>& x,
                            const std::vector<float>& grad, double tolerance = 2e-5, double floor = 1e-6) {
  ASSERT_EQ(x.size(), grad.size());
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    const auto d = random_floats(x.size(), 900 + seed);
    const double h = 1e-5;
    std::vector<double> up = x, down = x;
    for (std::size_t i = 0; i < x.size(); ++i) up[i] += h * d[i], down[i] -= h * d[i];
    const double want = (f(up) - f(down)) / (2 * h);
    double scale = floor;
    for (std::size_t i = 0; i < x.size(); ++i) scale += std::fabs(static_cast<double>(grad[i]) * d[i]);
    EXPECT_LE(std::fabs(dot(grad, d) - want), tolerance * scale) << "direction " << seed << ": finite difference " << want;
  }
}

}  // namespace moe
