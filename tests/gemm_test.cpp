// Matrix products, plain and grouped, of every instruction set of this processor, or of CUDA, against double loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/compare.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

using Int = std::int64_t;

// A matrix with its own storage and a row stride wider than its columns; the gap, and two rows behind the last, hold NaN,
// which must not be read, nor written.
struct Matrix {
  static constexpr Int kRowsBehind = 2;
  DType dtype;
  Int rows, cols, stride;
  std::vector<float> f32;
  std::vector<BF16> bf16;

  Matrix(DType t, Int r, Int c, Int gap, unsigned seed) : dtype(t), rows(r), cols(c), stride(c + gap) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    f32.assign(static_cast<std::size_t>((r + kRowsBehind) * stride), std::nanf(""));
    for (Int i = 0; i < r; ++i)
      for (Int j = 0; j < c; ++j) f32[static_cast<std::size_t>(i * stride + j)] = uniform(random);
    for (float v : f32) bf16.push_back(to_bf16(v));
  }
  Mat view() { return {dtype == DType::kF32 ? static_cast<void*>(f32.data()) : bf16.data(), dtype, rows, cols, stride}; }
  float at(Int i, Int j) const {
    const auto n = static_cast<std::size_t>(i * stride + j);
    return dtype == DType::kF32 ? f32[n] : to_float(bf16[n]);
  }
  std::vector<float> values() const {
    std::vector<float> v;
    for (Int i = 0; i < rows; ++i)
      for (Int j = 0; j < cols; ++j) v.push_back(at(i, j));
    return v;
  }
  bool gap_untouched() const {
    for (Int i = 0; i < rows + kRowsBehind; ++i)
      for (Int j = i < rows ? cols : 0; j < stride; ++j)
        if (!std::isnan(at(i, j))) return false;
    return true;
  }
};

enum class Op { kForward, kBackwardInput, kBackwardWeight };

// The operands of one operation for M rows, K inputs and N outputs of E experts (weights [E*N, K]).
struct Case {
  Op op;
  std::vector<Int> psum;
  Int in, out;
  DType type = DType::kF32;
  Store store = Store::kAssign;
  Int gap = 0;
  std::optional<DType> right_type = {}, result_type = {};  // where they are not `type`
  double rounding = 0;                                     // that the operation may add beside that of the result

  Int rows() const { return psum.back(); }
  Int experts() const { return static_cast<Int>(psum.size()) - 1; }
  Matrix left(unsigned seed) const { return {type, rows(), op == Op::kForward ? in : out, gap, seed}; }
  Matrix right(unsigned seed) const {
    const DType t = right_type.value_or(type);
    return op == Op::kBackwardWeight ? Matrix(t, rows(), in, gap, seed) : Matrix(t, experts() * out, in, gap, seed);
  }
  Matrix result(unsigned seed) const {
    if (op == Op::kBackwardWeight) return {DType::kF32, experts() * out, in, gap, seed};
    return {result_type.value_or(type), rows(), op == Op::kForward ? out : in, gap, seed};
  }
  bool adds() const { return op == Op::kBackwardWeight || store == Store::kAdd; }
};

// The plain loop in T.
template <class T>
std::vector<T> naive(const Case& c, const Matrix& a, const Matrix& b, const Matrix& start) {
  std::vector<T> sum(static_cast<std::size_t>(start.rows * start.cols));
  const auto add = [&](Int i, Int j, T x, T y) { sum[static_cast<std::size_t>(i * start.cols + j)] += x * y; };
  for (Int e = 0; e < c.experts(); ++e)
    for (Int r = c.psum[static_cast<std::size_t>(e)]; r < c.psum[static_cast<std::size_t>(e) + 1]; ++r)
      for (Int n = 0; n < c.out; ++n)
        for (Int k = 0; k < c.in; ++k) {
          if (c.op == Op::kForward) add(r, n, a.at(r, k), b.at(e * c.out + n, k));
          if (c.op == Op::kBackwardInput) add(r, k, a.at(r, n), b.at(e * c.out + n, k));
          if (c.op == Op::kBackwardWeight) add(e * c.out + n, k, a.at(r, n), b.at(r, k));
        }
  if (c.adds())
    for (Int i = 0; i < start.rows; ++i)
      for (Int j = 0; j < start.cols; ++j) sum[static_cast<std::size_t>(i * start.cols + j)] += start.at(i, j);
  return sum;
}

void run_plain(const GemmKernels& k, Stream& s, const Case& c, Matrix& a, Matrix& b, Matrix& y) {
  if (c.op == Op::kForward) k.forward(s, a.view(), b.view(), y.view(), c.store);
  if (c.op == Op::kBackwardInput) k.backward_input(s, a.view(), b.view(), y.view(), c.store);
  if (c.op == Op::kBackwardWeight) k.backward_weight(s, a.view(), b.view(), y.view());
}
void run_grouped(const GroupedGemmKernels& k, Stream& s, const Case& c, Matrix& a, Matrix& b, Matrix& y) {
  if (c.op == Op::kForward) k.forward(s, a.view(), b.view(), c.psum, y.view(), c.store);
  if (c.op == Op::kBackwardInput) k.backward_input(s, a.view(), b.view(), c.psum, y.view(), c.store);
  if (c.op == Op::kBackwardWeight) k.backward_weight(s, a.view(), b.view(), c.psum, y.view());
}

// Every instruction set: error at most twice that of the plain float loop (and one rounding for a bf16 result), nothing
// written beside the result, the same bits with 1, 2 and 3 threads.
void check(const Case& c, bool grouped) {
  Matrix a = c.left(1), b = c.right(2);
  const Matrix start = c.result(3);
  const std::vector<double> want = naive<double>(c, a, b, start);
  const double loop_error = worst_error<float, double>(naive<float>(c, a, b, start), want).relative;
  const double slack = tests_cuda() ? 4e-7 : 2e-7;  // sums in fp32 in another order than the loop's
  const double rounding = c.rounding + (start.dtype == DType::kBF16 ? 1.0 / 256 : 0);
  for (const Kernels* k : all_isas()) {
    SCOPED_TRACE(std::string(k->isa) + " op " + std::to_string(static_cast<int>(c.op)) + " rows " +
                 std::to_string(c.rows()) + " in " + std::to_string(c.in) + " out " + std::to_string(c.out));
    std::vector<float> first;
    for (int threads : on_host() ? std::vector{1, 2} : std::vector{1, 2, 3}) {
      Stream stream(kernel_device(), threads);
      Matrix y = start;
      grouped ? run_grouped(k->grouped_gemm, stream, c, a, b, y) : run_plain(k->gemm, stream, c, a, b, y);
      const std::vector<float> got = y.values();
      EXPECT_TRUE((close_to<float, double>(got, want, 2 * loop_error + slack + rounding)));
      EXPECT_TRUE(y.gap_untouched());
      if (threads == 1) first = got;
      EXPECT_TRUE(same_bits(got, first)) << threads << " threads";
    }
  }
}

constexpr Op kOps[] = {Op::kForward, Op::kBackwardInput, Op::kBackwardWeight};

TEST(Gemm, SmallAndOddShapes) {
  const auto sizes = on_host() ? std::vector<Int>{1, 7, 33} : std::vector<Int>{1, 7, 16, 33, 131};
  for (Op op : kOps)
    for (Int rows : sizes)
      for (Int in : sizes)
        for (Int out : sizes) check({op, {0, rows}, in, out, DType::kF32, Store::kAssign, rows % 3}, false);
}

TEST(Gemm, SeveralBlocksOfKRowsAndColumns) {
  for (Op op : kOps) {
    if (tests_cuda()) {
      check({op, {0, 75}, 130, 67}, false);
      continue;
    }
    check({op, {0, 530}, 401, 389}, false);  // two blocks of k in every direction, two of rows
    check({op, {0, 20}, 512, 1031}, false);  // few rows, a stride of many cache sets
    check({op, {0, 601}, 64, 70, DType::kF32, Store::kAdd, 5}, false);
    check({op, {0, 530}, 513, 389, DType::kBF16, Store::kAssign, 3}, false);
    check({op, {0, 35}, 1031, 61, DType::kBF16, Store::kAdd, 1}, false);
  }
}

TEST(Gemm, AddsAndReadsBf16) {
  for (Op op : kOps)
    for (Store store : {Store::kAssign, Store::kAdd})
      for (Int rows : {1, 13, 67}) {
        check({op, {0, rows}, 37, 45, DType::kF32, store, 3}, false);
        check({op, {0, rows}, 37, 45, DType::kBF16, store, 3}, false);
        check({op, {0, rows}, 400, 64, DType::kBF16, store, 0}, false);
      }
}

TEST(Gemm, EveryMixOfTypes) {
  for (Op op : kOps)
    for (int mix = 0; mix < 8; ++mix) {
      const auto type = [&](int bit) { return mix >> bit & 1 ? DType::kBF16 : DType::kF32; };
      for (Store store : {Store::kAssign, Store::kAdd}) {
        const Case c = {op, {0, 7, 7, 31}, 20, 18, type(0), store, 3, type(1), type(2)};
        check(c, true);
        check({op, {0, 31}, 20, 18, type(0), store, 3, type(1), type(2)}, false);
      }
    }
}

// The gradient of the logits beside bf16: wide enough that it may be rounded.
TEST(Gemm, AWideOperandMayBeRoundedOnce) {
  for (Op op : {Op::kBackwardInput, Op::kBackwardWeight})
    check({op, {0, 30}, 20, 4100, DType::kF32, Store::kAssign, 0, DType::kBF16, DType::kF32, 1.0 / 256}, false);
}

TEST(Gemm, MixedTypes) {
  Matrix x(DType::kF32, 9, 20, 0, 1), w(DType::kBF16, 11, 20, 0, 2), y(DType::kF32, 9, 11, 0, 3);
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    k->gemm.forward(stream, x.view(), w.view(), y.view(), Store::kAssign);
    for (Int i = 0; i < 9; ++i)
      for (Int j = 0; j < 11; ++j) {
        double want = 0;
        for (Int l = 0; l < 20; ++l) want += static_cast<double>(x.at(i, l)) * w.at(j, l);
        EXPECT_NEAR(y.at(i, j), want, 1e-5);
      }
  }
}

// A bf16 result of several blocks of k must be rounded once: 749 ones and 747 times minus one make exactly 2, although
// the partial sums have more bits than bf16.
TEST(Gemm, RoundsABf16ResultOnce) {
  const Int in = 1500;
  for (Int rows : {3, 40}) {
    Matrix x(DType::kBF16, rows, in, 0, 1), w(DType::kBF16, 5, in, 0, 2), y(DType::kBF16, rows, 5, 0, 3);
    for (Int i = 0; i < rows * in; ++i) {
      const Int k = i % in;
      x.bf16[static_cast<std::size_t>(i)] = to_bf16(k < 749 ? 1.0f : k < 1496 ? -1.0f : 0.0f);
    }
    std::fill(w.bf16.begin(), w.bf16.end(), to_bf16(1.0f));
    for (const Kernels* k : all_isas()) {
      Stream stream(kernel_device(), 1);
      k->gemm.forward(stream, x.view(), w.view(), y.view(), Store::kAssign);
      for (float v : y.values()) EXPECT_EQ(v, 2.0f);
    }
  }
}

TEST(Gemm, NotANumberStaysVisible) {
  for (const Kernels* k : all_isas())
    for (const DType t : {DType::kF32, DType::kBF16})
      for (Int rows : {5, 40}) {
        Matrix x(t, rows, 50, 0, 1), w(t, 40, 50, 0, 2), y(DType::kF32, rows, 40, 0, 3);
        t == DType::kF32 ? x.f32[2 * 50 + 17] = std::nanf("") : (x.bf16[2 * 50 + 17] = to_bf16(std::nanf("")), 0.0f);
        Stream stream(kernel_device(), 2);
        k->gemm.forward(stream, x.view(), w.view(), y.view(), Store::kAssign);
        for (Int i = 0; i < rows; ++i)
          for (Int j = 0; j < 40; ++j) EXPECT_EQ(std::isnan(y.at(i, j)), i == 2) << k->isa;
      }
}

// A sum over no rows adds nothing to a weight's gradient; a product of no rows writes nothing.
TEST(Gemm, NoRows) {
  for (Op op : kOps) check({op, {0, 0}, 7, 9}, false);
}

TEST(Gemm, RefusesShapesThatDoNotFit) {
  Matrix x(DType::kF32, 4, 6, 0, 1), w(DType::kF32, 5, 7, 0, 2), y(DType::kF32, 4, 5, 0, 3), half(DType::kBF16, 6, 7, 0, 4);
  const std::vector<Int> short_psum{0, 3};
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    EXPECT_THROW(k->gemm.forward(stream, x.view(), w.view(), y.view(), Store::kAssign), std::invalid_argument);
    EXPECT_THROW(k->gemm.backward_weight(stream, x.view(), y.view(), half.view()), std::invalid_argument);
    EXPECT_THROW(k->grouped_gemm.forward(stream, x.view(), w.view(), short_psum, y.view(), Store::kAssign),
                 std::invalid_argument);
  }
}

TEST(GroupedGemm, UnevenEmptyAndSingleExperts) {
  const std::vector<std::vector<Int>> routes = {
      {0, 1}, {0, 5, 5, 18}, {0, 0, 0, 97, 97}, {0, 0, 0}, {0, 1, 2, 3, 4, 5, 40, 170, 171, 171}};
  for (const auto& psum : routes)
    for (Op op : kOps)
      for (Store store : {Store::kAssign, Store::kAdd}) {
        check({op, psum, 31, 48, DType::kF32, store, 2}, true);
        check({op, psum, 31, 48, DType::kBF16, store, 0}, true);
      }
}

TEST(GroupedGemm, LargeEnoughForSeveralTasks) {
  for (Op op : kOps)
    on_host() ? check({op, {0, 90, 100, 100, 200}, 50, 70}, true) : check({op, {0, 300, 310, 310, 700}, 130, 260}, true);
}

// Rows and strides on 16 bytes: those of Hopper's matrix units, whose tiles are 128 x 256 and 64 deep.
TEST(GroupedGemm, EdgesOfTilesOfBf16) {
  const std::vector<Int> small = {0, 1, 8, 71, 135, 200}, large = {0, 127, 255, 384}, one = {0, 0, 0, 90, 90};
  for (Op op : kOps) {
    check({op, small, 72, 136, DType::kBF16, Store::kAssign, 8}, true);
    check({op, large, 64, 264, DType::kBF16, Store::kAdd}, true);
    check({op, one, 200, 64, DType::kBF16, Store::kAdd, 8, DType::kBF16, DType::kF32}, true);
    check({op, {0, 30, 193}, 264, 128, DType::kBF16, Store::kAssign, 0, DType::kBF16, DType::kF32}, true);
    check({op, {0, 65}, 72, 70, DType::kBF16, Store::kAssign, 2}, true);  // D's columns end inside 16 bytes
  }
}

// Tiles of which all rows are the expert's, of which the second half is, or the first, in part: with several tiles a block,
// columns that end inside a box of 64 (of 32) or between two, and tiles in two dimensions, so that the last rows of an
// expert are not always written before the first ones of the next. Twice: the stand-in's copies come early or late, its
// threads rise or fall.
TEST(GroupedGemm, TilesAreStoredWholeAndInPart) {
  const std::vector<Int> in_first_half = {0, 168, 168, 424, 490}, in_second = {0, 255, 420, 420, 548};
  for (int i = 0; i < (on_host() ? 2 : 1); ++i)
    for (Op op : kOps)
      for (const auto& psum : {in_first_half, in_second})
        for (Store store : {Store::kAssign, Store::kAdd}) {
          const Int in = op == Op::kForward ? 72 : 344, out = op == Op::kForward ? 344 : 72;
          check({op, psum, in, out, DType::kBF16, store, 8}, true);
          check({op, psum, in, out, DType::kBF16, store, 8, DType::kBF16, DType::kF32}, true);
        }
  for (Store store : {Store::kAssign, Store::kAdd})  // D's rows do not lie on 16 bytes
    check({Op::kForward, {0, 100, 168}, 72, 70, DType::kBF16, store, 0, DType::kBF16, DType::kF32}, true);
}

// The gradient of up to 512 experts is made in the order of their sizes.
TEST(GroupedGemm, GradientsOfManyExperts) {
  for (const std::size_t experts : {512, 513}) {
    std::vector<Int> psum(experts + 1, 9);
    psum[0] = psum[1] = 0, psum[2] = 1, psum[3] = 8, psum.back() = 78;
    check({Op::kBackwardWeight, psum, 16, 8, DType::kBF16}, true);
  }
  std::vector<Int> sizes = {7, 64, 1, 0, 64, 130, 7, 200, 0, 65}, psum = {0};
  for (const Int n : sizes) psum.push_back(psum.back() + n);
  check({Op::kBackwardWeight, psum, 72, 136, DType::kBF16}, true);
}

// Experts without rows keep their gradient, bit for bit: zeros with a sign, and numbers that an addition would flush.
TEST(GroupedGemm, AnEmptyExpertsGradientIsNotTouched) {
  const Int out = 72, in = 264;  // rows of weights that end inside a tile
  const std::vector<Int> psum = {0, 100, 100, 165, 165};
  Matrix dy(DType::kBF16, 165, out, 0, 1), x(DType::kBF16, 165, in, 0, 2);
  for (const Kernels* k : all_isas())
    for (const float old : {-0.0f, 1e-40f}) {
      Stream stream(kernel_device(), 2);
      Matrix dw(DType::kF32, 4 * out, in, 0, 3);
      std::fill(dw.f32.begin(), dw.f32.end(), old);
      k->grouped_gemm.backward_weight(stream, dy.view(), x.view(), psum, dw.view());
      for (const Int e : {1, 3})
        for (Int i = 0; i < out * in; ++i) {
          const float v = dw.f32[static_cast<std::size_t>(e * out * in + i)];
          ASSERT_TRUE(v == old && std::signbit(v) == std::signbit(old)) << k->isa << " expert " << e << " element " << i;
        }
    }
}

// The rows of the next expert, and its weights, lie where the last block of a sum ends: none of them may count.
TEST(GroupedGemm, NotANumberStaysWithItsExpert) {
  const std::vector<Int> psum = {0, 70, 140};
  Matrix dy(DType::kBF16, 140, 72, 0, 1), x(DType::kBF16, 140, 72, 0, 2), w(DType::kBF16, 2 * 72, 72, 0, 3);
  std::fill_n(dy.bf16.begin() + 70 * 72, 72, to_bf16(std::nanf("")));
  std::fill_n(x.bf16.begin() + 70 * 72, 72, to_bf16(std::nanf("")));
  std::fill_n(w.bf16.begin() + 72 * 72, 72, to_bf16(std::nanf("")));
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 2);
    Matrix dx(DType::kF32, 140, 72, 0, 4), dw(DType::kF32, 2 * 72, 72, 0, 5);
    k->grouped_gemm.backward_input(stream, dy.view(), w.view(), psum, dx.view(), Store::kAssign);
    k->grouped_gemm.backward_weight(stream, dy.view(), x.view(), psum, dw.view());
    for (Int j = 0; j < 72; ++j) {
      for (Int i = 0; i < 140; ++i) ASSERT_EQ(std::isnan(dx.at(i, j)), i >= 70) << i;
      for (Int i = 0; i < 144; ++i) ASSERT_EQ(std::isnan(dw.at(i, j)), i >= 72) << i;
    }
  }
}

TEST(Peak, IsAPositiveFigure) {
  if (tests_cuda()) GTEST_SKIP() << "judged where it is measured";
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const double gflops = k->register_peak_gflops(stream, dtype, 0.002);
      EXPECT_GT(gflops, 0.1) << k->isa << " " << name_of(dtype);
      EXPECT_LT(gflops, 1e5) << k->isa << " " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace moe
