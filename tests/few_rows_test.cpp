// The rows of products of few rows, bit for bit: as if each were alone (kernels/few_rows.h). Not here: whether they are
// right (gemm_test.cpp).
#include "kernels/few_rows.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

using Int = std::int64_t;

// Random numbers in a matrix of its own.
struct Matrix {
  std::vector<std::byte> bytes;
  Mat m;
  Matrix(DType dtype, Int rows, Int cols, unsigned seed) : bytes(static_cast<std::size_t>(rows * cols) * size_of(dtype)) {
    m = {bytes.data(), dtype, rows, cols, cols};
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (Int i = 0; i < rows * cols; ++i) {
      const float x = uniform(random);
      dtype == DType::kF32 ? m.f32()[i] = x : (m.bf16()[i] = to_bf16(x), x);
    }
  }
};

bool same_bits(const Mat& a, const Mat& b) {
  for (Int i = 0; i < a.rows; ++i)
    if (std::memcmp(a.row(i), b.row(i), static_cast<std::size_t>(a.cols) * size_of(a.dtype)) != 0) return false;
  return true;
}

struct Shape {
  Int n, k;
};

// Wide enough for several tasks, odd, and of an expert.
std::vector<Shape> shapes() {
  if (on_host()) return {{1, 1}, {5, 19}, {3, 600}};
  return {{1, 1}, {37, 19}, {130, 600}, {1031, 257}};
}

void expect_rows_alone(const Kernels& kernels, DType dtype, DType out, const Shape& shape, Store store, int threads) {
  Stream stream(kernel_device(), threads);
  const Matrix x(dtype, kFewRows, shape.k, 1), w(dtype, shape.n, shape.k, 2);
  Matrix alone(out, kFewRows, shape.n, 3);
  for (Int i = 0; i < kFewRows; ++i)
    kernels.gemm.forward(stream, x.m.slice_rows(i, 1), w.m, alone.m.slice_rows(i, 1), store);
  for (const Int rows : {2, 3, 4, 7, 16, kFewRows - 1, kFewRows})
    for (const Int first : {Int{0}, kFewRows - rows}) {
      Matrix together(out, kFewRows, shape.n, 3);
      const Mat got = together.m.slice_rows(first, rows);
      kernels.gemm.forward(stream, x.m.slice_rows(first, rows), w.m, got, store);
      EXPECT_TRUE(same_bits(got, alone.m.slice_rows(first, rows)))
          << kernels.isa << ", " << rows << " rows from " << first << ", " << shape.n << "x" << shape.k;
      const Int cut = rows / 3;  // the same as rows of three experts, one of them without any
      const Matrix weights(dtype, 3 * shape.n, shape.k, 2);
      std::memcpy(weights.m.row(2 * shape.n), w.m.data, w.bytes.size());
      const std::vector<Int> psum = {0, cut, cut, rows};
      Matrix grouped(out, kFewRows, shape.n, 3);
      kernels.grouped_gemm.forward(stream, x.m.slice_rows(first, rows), weights.m, psum, grouped.m.slice_rows(first, rows),
                                   store);
      EXPECT_TRUE(same_bits(grouped.m.slice_rows(first + cut, rows - cut), alone.m.slice_rows(first + cut, rows - cut)))
          << kernels.isa << ", expert with " << rows - cut << " rows";
    }
}

TEST(FewRows, HaveTheBitsOfRowsAlone) {
  for (const Kernels* kernels : all_isas()) {
    for (const Shape& shape : shapes()) {
      if (kernels->isa == std::string("generic") && shape.n > 1000) continue;  // slow, and cut as the others are
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        expect_rows_alone(*kernels, dtype, dtype, shape, Store::kAssign, 1);
        expect_rows_alone(*kernels, dtype, DType::kF32, shape, Store::kAdd, 2);  // logits; the residual stream
      }
    }
  }
}

// On matrix units of the CPU no number of rows changes a bit of one.
TEST(FewRows, OnAmxSoHaveMany) {
  const Kernels* const kernels = tests_cuda() ? nullptr : cpu_kernels_by_isa("amx");
  if (!kernels) GTEST_SKIP() << "no matrix units of a CPU";
  constexpr Int kMany = 70;
  for (const Shape& shape : shapes()) {
    Stream stream(kernel_device(), 2);
    const Matrix x(DType::kBF16, kMany, shape.k, 1), w(DType::kBF16, shape.n, shape.k, 2);
    Matrix alone(DType::kF32, kMany, shape.n, 3), together(DType::kF32, kMany, shape.n, 3);
    for (Int i = 0; i < kMany; ++i)
      kernels->gemm.forward(stream, x.m.slice_rows(i, 1), w.m, alone.m.slice_rows(i, 1), Store::kAssign);
    kernels->gemm.forward(stream, x.m, w.m, together.m, Store::kAssign);
    EXPECT_TRUE(same_bits(together.m, alone.m)) << shape.n << "x" << shape.k;
  }
}

}  // namespace
}  // namespace moe
