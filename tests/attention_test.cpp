// Attention, of every instruction set of this processor or of CUDA, against the formula with double loops and full score
// matrices. Not here: a cache (cache_attention_test.cpp).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "kernels/kernels.h"
#include "tests/compare.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

using Int = std::int64_t;
using Doubles = std::vector<double>;

// Values in fp32 and bf16 with rows wider than the matrix, as slices of a fused projection have; NaN in the gap.
struct Tensor {
  DType dtype;
  Int rows, cols, stride;
  std::vector<float> f32;
  std::vector<BF16> bf16;

  Tensor(DType t, Int r, Int c, unsigned seed, Int pad = 3) : dtype(t), rows(r), cols(c), stride(c + pad) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    f32.assign(static_cast<std::size_t>(r * stride), std::numeric_limits<float>::quiet_NaN());
    for (Int i = 0; i < r; ++i)
      for (Int j = 0; j < c; ++j) f32[static_cast<std::size_t>(i * stride + j)] = normal(random);
    for (float v : f32) bf16.push_back(to_bf16(v));
  }
  Mat view() { return {dtype == DType::kF32 ? static_cast<void*>(f32.data()) : bf16.data(), dtype, rows, cols, stride}; }
  double at(Int i, Int j) const {
    const auto n = static_cast<std::size_t>(i * stride + j);
    return dtype == DType::kF32 ? f32[n] : to_float(bf16[n]);
  }
  std::vector<float> values() const {
    std::vector<float> v;
    for (Int i = 0; i < rows; ++i)
      for (Int j = 0; j < cols; ++j) v.push_back(static_cast<float>(at(i, j)));
    return v;
  }
};

struct Case {
  AttentionShape shape;
  std::vector<std::int32_t> doc_start;  // empty: none
  DType dtype = DType::kF32;
  std::vector<float> sinks;  // empty: none
  Int pad = 3;               // columns between the rows; with 8 the copies of 16 bytes fit that matrix units need

  Int tokens() const { return Int{shape.num_seqs} * shape.seq_len; }
  Tensor queries(unsigned seed) const { return {dtype, tokens(), Int{shape.num_heads} * shape.head_dim, seed, pad}; }
  Tensor keys(unsigned seed) const { return {dtype, tokens(), Int{shape.num_kv_heads} * shape.head_dim, seed, pad}; }
  Tensor values(unsigned seed) const { return {dtype, tokens(), Int{shape.num_kv_heads} * shape.value_dim, seed, pad}; }
  Tensor outputs(unsigned seed) const { return {dtype, tokens(), Int{shape.num_heads} * shape.value_dim, seed, pad}; }
  AttentionShape with_sinks() const {
    AttentionShape s = shape;
    s.sinks_H = sinks.empty() ? nullptr : sinks.data();
    return s;
  }
  const std::int32_t* docs() const { return doc_start.empty() ? nullptr : doc_start.data(); }
};

// The specification: o, lse and all gradients.
struct Reference {
  Doubles o, lse, dq, dk, dv, dsinks;

  Reference(const Case& c, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o)
      : o(size(d_o)),
        lse(static_cast<std::size_t>(c.tokens() * c.shape.num_heads)),
        dq(size(q)),
        dk(size(k)),
        dv(size(v)),
        dsinks(c.sinks.size()) {
    for (Int t = 0; t < c.tokens(); ++t)
      for (Int h = 0; h < c.shape.num_heads; ++h) add_row(c, q, k, v, d_o, t, h);
  }
  static std::size_t size(const Tensor& t) { return static_cast<std::size_t>(t.rows * t.cols); }

  void add_row(const Case& c, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& d_o, Int t, Int h) {
    const AttentionShape& s = c.shape;
    const Int first = t / s.seq_len * s.seq_len, opens = first + (c.doc_start.empty() ? 0 : c.doc_start[t]);
    const Int from = s.window > 0 ? std::max(opens, t - s.window + 1) : opens;
    const Int kv = h / (s.num_heads / s.num_kv_heads), S = s.head_dim, Sv = s.value_dim;
    Doubles p, dp;
    const double sink = c.sinks.empty() ? 0 : std::exp(c.sinks[h]);
    double sum = sink, delta = 0;
    for (Int j = from; j <= t; ++j) {
      double score = 0;
      for (Int d = 0; d < S; ++d) score += q.at(t, h * S + d) * k.at(j, kv * S + d);
      p.push_back(std::exp(score * s.scale));
      sum += p.back();
    }
    lse[t * s.num_heads + h] = std::log(sum);
    for (Int j = from; j <= t; ++j) {
      p[j - from] /= sum;
      dp.push_back(0);
      for (Int d = 0; d < Sv; ++d) {
        o[t * d_o.cols + h * Sv + d] += p[j - from] * v.at(j, kv * Sv + d);
        dp.back() += d_o.at(t, h * Sv + d) * v.at(j, kv * Sv + d);
        dv[j * v.cols + kv * Sv + d] += p[j - from] * d_o.at(t, h * Sv + d);
      }
      delta += p[j - from] * dp.back();
    }
    if (!c.sinks.empty()) dsinks[h] -= sink / sum * delta;
    for (Int j = from; j <= t; ++j)
      for (Int d = 0; d < S; ++d) {
        const double ds = p[j - from] * (dp[j - from] - delta) * s.scale;
        dq[t * q.cols + h * S + d] += ds * k.at(j, kv * S + d);
        dk[j * k.cols + kv * S + d] += ds * q.at(t, h * S + d);
      }
  }
};

// dq and dk of a sequence of one token are differences that vanish: judge them on the scale of the operands, which is 1.
::testing::AssertionResult gradient_close(const Case& c, std::vector<float> got, Doubles want, double tolerance) {
  if (c.shape.seq_len == 1 || c.shape.window == 1) got.push_back(1), want.push_back(1);
  return close_to<float, double>(got, want, tolerance);
}

void check(const Case& c) {
  Tensor q = c.queries(1), k = c.keys(2), v = c.values(3), d_o = c.outputs(4);
  const Reference want(c, q, k, v, d_o);
  const double tolerance = c.dtype == DType::kF32 ? 5e-6 : 1.5e-2;  // bf16: o is rounded before delta is taken from it
  for (const Kernels* kernels : all_isas()) {
    SCOPED_TRACE(std::string(kernels->isa) + " seq " + std::to_string(c.shape.seq_len) + " heads " +
                 std::to_string(c.shape.num_heads) + "/" + std::to_string(c.shape.num_kv_heads) + " window " +
                 std::to_string(c.shape.window) + " dims " + std::to_string(c.shape.head_dim) + "/" +
                 std::to_string(c.shape.value_dim));
    std::vector<std::vector<float>> first;
    for (int threads = 1; threads <= (on_host() ? 2 : 3); ++threads) {
      Stream stream(kernel_device(), threads);
      Tensor o = c.outputs(5), dq = c.queries(6), dk = c.keys(7), dv = c.values(8);
      std::vector<float> lse(want.lse.size(), -1), dsinks(c.sinks.size(), 0.5f);
      kernels->attention.forward(stream, c.with_sinks(), q.view(), k.view(), v.view(), c.docs(), o.view(), lse.data());
      kernels->attention.backward(stream, c.with_sinks(), q.view(), k.view(), v.view(), o.view(), lse.data(), c.docs(),
                                  d_o.view(), dq.view(), dk.view(), dv.view(), c.sinks.empty() ? nullptr : dsinks.data());
      const std::vector<std::vector<float>> got = {o.values(), lse, dq.values(), dk.values(), dv.values(), dsinks};
      EXPECT_TRUE((close_to<float, double>(got[0], want.o, tolerance))) << "o";
      EXPECT_TRUE((close_to<float, double>(got[1], want.lse, 5e-6))) << "lse";
      EXPECT_TRUE(gradient_close(c, got[2], want.dq, tolerance)) << "dq";
      EXPECT_TRUE(gradient_close(c, got[3], want.dk, tolerance)) << "dk";
      EXPECT_TRUE((close_to<float, double>(got[4], want.dv, tolerance))) << "dv";
      for (float& d : dsinks) d -= 0.5f;  // what was there
      EXPECT_TRUE((close_to<float, double>(dsinks, want.dsinks, tolerance))) << "dsinks";
      if (threads == 1) first = got;
      for (std::size_t n = 0; n < got.size(); ++n) EXPECT_TRUE(same_bits(got[n], first[n])) << threads << " threads";
    }
  }
}

AttentionShape shape(int seqs, int seq_len, int heads, int kv_heads, int head_dim, int value_dim) {
  return {seqs, seq_len, heads, kv_heads, head_dim, value_dim, 1 / std::sqrt(static_cast<float>(head_dim))};
}

TEST(Attention, LengthsAroundTheBlocks) {
  for (int length : {1, 2, 7, 31, 63, 64, 65}) check({shape(2, length, 2, 2, 16, 16), {}});
  for (int length : {127, 128, 129, on_host() ? 131 : 300}) check({shape(on_host() ? 1 : 2, length, 2, 2, 16, 16), {}});
}

TEST(Attention, WidthsOfHeads) {
  for (int dim : {1, 7, 32, 64, 128}) check({shape(1, 53, 2, 1, dim, dim), {}});
  check({shape(1, 140, 2, 2, 192, 128), {}});
  check({shape(1, 40, 2, 2, 5, 67), {}});
}

TEST(Attention, GroupedQueries) {
  check({shape(on_host() ? 1 : 2, 150, on_host() ? 3 : 6, on_host() ? 1 : 2, 24, 24), {}});
  check({shape(1, on_host() ? 70 : 600, 8, 1, 8, 8), {}});
}

TEST(Attention, Bf16) {
  check({shape(2, 70, 4, 2, 64, 64), {}, DType::kBF16});
  check({shape(1, 131, 2, 1, 19, 7), {}, DType::kBF16});
}

// Documents that begin inside blocks, at their edges, and one of a single token.
TEST(Attention, Documents) {
  const std::vector<std::int32_t> starts = {0, 1, 5, 128, 200, 256, 299};
  Case c{shape(2, 300, on_host() ? 1 : 4, on_host() ? 1 : 2, 32, 32), {}};
  for (int s = 0; s < 2; ++s)
    for (std::int32_t i = 0; i < 300; ++i) {
      std::int32_t begin = 0;
      for (std::int32_t at : starts) begin = at <= i && (s == 0 || at != 128) ? at : begin;
      c.doc_start.push_back(begin);
    }
  check(c);
}

Case windowed(AttentionShape s, int window, bool sinks, DType dtype = DType::kF32) {
  s.window = window;
  Case c{s, {}, dtype};
  for (int h = 0; sinks && h < s.num_heads; ++h) c.sinks.push_back(0.9f * static_cast<float>(h) - 1);
  return c;
}

// Windows around the sizes of tiles and blocks, and longer than the sequence.
TEST(Attention, Windows) {
  const std::vector<int> all = {1, 2, 16, 100, 127, 129, 130, 255, 299, 1000}, some = {1, 16, 65, 129, 1000};
  for (int window : on_host() ? some : all) check(windowed(shape(1, on_host() ? 140 : 300, 2, 1, 8, 8), window, false));
  for (int window : {1, 13}) check(windowed(shape(2, 31, 2, 2, 8, 8), window, false));
  if (!on_host()) check(windowed(shape(1, 700, 4, 1, 8, 8), 200, false));
}

TEST(Attention, Sinks) {
  for (int length : {1, 2, 31, 128, on_host() ? 65 : 300}) check(windowed(shape(2, length, 4, 2, 16, 16), 0, true));
  check(windowed(shape(2, 70, 4, 2, 64, 64), 0, true, DType::kBF16));
}

TEST(Attention, SinksWindowsAndDocuments) {
  for (int window : {5, 128, 140}) {
    Case c = windowed(shape(2, 290, on_host() ? 1 : 6, on_host() ? 1 : 2, 24, 16), window, true);
    for (int s = 0; s < 2; ++s)
      for (std::int32_t i = 0; i < 290; ++i) c.doc_start.push_back(i < 3 ? 0 : i < 150 ? 3 : s == 0 ? 150 : 3);
    check(c);
  }
  check(windowed(shape(1, 270, 2, 1, 32, 32), 100, true, DType::kBF16));
}

// bf16 with rows that lie apart by multiples of 16 bytes: what matrix units take (on the CPU a case like others). Widths of
// each size that the tiles have, and of heads that fill them in part; documents, windows and sinks across their edges.
Case for_matrix_units(AttentionShape s, int window = 0, bool sinks = false) {
  Case c = windowed(s, window, sinks, DType::kBF16);
  c.pad = 8;
  return c;
}
TEST(Attention, MatrixUnitsLengths) {
  for (int length : {1, 63, 64, 65, 127, 128, 129}) check(for_matrix_units(shape(1, length, 2, 1, 16, 16)));
}
TEST(Attention, MatrixUnitsWidths) {
  check(for_matrix_units(shape(2, 33, 2, 2, 8, 24)));
  check(for_matrix_units(shape(1, 66, 2, 1, 48, 56)));
  check(for_matrix_units(shape(1, 70, 2, 1, 80, 40)));
  check(for_matrix_units(shape(1, 65, 1, 1, 136, 24)));
  check(for_matrix_units(shape(1, 129, 1, 1, 128, 128)));
  check(for_matrix_units(shape(1, 65, 1, 1, 192, 128)));
}
// The widths that Hopper's warpgroups take, with more tiles than are on their way at once; windows, documents and groups
// of heads across them.
TEST(Attention, MatrixUnitsManyTiles) {
  check(for_matrix_units(shape(1, 513, 1, 1, 64, 64)));
  check(for_matrix_units(shape(1, 400, 2, 1, 128, 128)));
  check(for_matrix_units(shape(1, 290, 1, 1, 192, 128)));
  Case c = for_matrix_units(shape(2, 130, 2, 1, 64, 64), 100, true);
  for (int s = 0; s < 2; ++s)
    for (std::int32_t i = 0; i < 130; ++i) c.doc_start.push_back(i < 40 ? 0 : i < 129 || s == 0 ? 40 : 129);
  check(c);
}
TEST(Attention, MatrixUnitsManyTilesHidden) {
  for (int dim : {128, 192}) {
    Case c = for_matrix_units(shape(2, 301, 1, 1, dim, 128), 150);
    for (int s = 0; s < 2; ++s)
      for (std::int32_t i = 0; i < 301; ++i) c.doc_start.push_back(i < 3 ? 0 : i < 200 ? 3 : s == 0 ? 200 : 3);
    check(c);
  }
}
TEST(Attention, MatrixUnitsGroups) { check(for_matrix_units(shape(2, 70, 8, 1, 8, 8))); }
TEST(Attention, MatrixUnitsWindowsSinksAndDocuments) {
  for (int window : {5, 100}) check(for_matrix_units(shape(1, 200, 2, 1, 16, 16), window, true));
  for (int window : {0, 70}) {
    Case c = for_matrix_units(shape(2, 200, 1, 1, 24, 32), window, true);
    for (int s = 0; s < 2; ++s)
      for (std::int32_t i = 0; i < 200; ++i)
        c.doc_start.push_back(i < 3 ? 0 : i < 20 ? 3 : i < 190 ? 20 : s == 0 ? 190 : 20);
    check(c);
  }
}

// A sink far above all scores takes the weight, one far below is as none.
TEST(Attention, SinksOfAnySize) {
  Case c = windowed(shape(1, 140, 2, 1, 8, 8), 0, true), none = windowed(c.shape, 0, false);
  c.sinks = {200, -200};
  Tensor q = c.queries(1), k = c.keys(2), v = c.values(3), o = c.outputs(4), plain = c.outputs(4);
  for (const Kernels* kernels : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> lse(280), lse_plain(280);
    kernels->attention.forward(stream, c.with_sinks(), q.view(), k.view(), v.view(), nullptr, o.view(), lse.data());
    kernels->attention.forward(stream, none.shape, q.view(), k.view(), v.view(), nullptr, plain.view(), lse_plain.data());
    for (Int i = 0; i < 140; ++i)
      for (Int d = 0; d < 8; ++d) {
        EXPECT_NEAR(o.at(i, d), 0, 1e-30);
        EXPECT_EQ(o.at(i, 8 + d), plain.at(i, 8 + d));
        EXPECT_EQ(lse[static_cast<std::size_t>(2 * i)], 200);
      }
  }
}

// Keys outside the window are not even read: their tiles are skipped.
TEST(Attention, KeysOutsideTheWindowMayBeAnything) {
  Case c = windowed(shape(1, 600, 1, 1, 8, 8), 10, false);
  Tensor q = c.queries(1), k = c.keys(2), v = c.values(3), o = c.outputs(4);
  for (Int i = 0; i < 100; ++i)
    for (Int d = 0; d < 8; ++d) k.f32[static_cast<std::size_t>(i * k.stride + d)] = std::numeric_limits<float>::quiet_NaN();
  for (const Kernels* kernels : all_isas()) {
    Stream stream(kernel_device(), 2);
    std::vector<float> lse(600);
    kernels->attention.forward(stream, c.shape, q.view(), k.view(), v.view(), nullptr, o.view(), lse.data());
    for (Int i = 256; i < 600; ++i) EXPECT_FALSE(std::isnan(o.at(i, 3))) << i;
  }
}

// exp() of these scores overflows unless the maximum is taken off.
TEST(Attention, LargeScores) {
  AttentionShape s = shape(1, 260, 1, 1, 4, 4);
  Case c{s, {}};
  Tensor q = c.queries(1), k = c.keys(2), v = c.values(3), o = c.outputs(4);
  for (Int i = 0; i < 260; ++i)
    for (Int d = 0; d < 4; ++d) {
      q.f32[static_cast<std::size_t>(i * q.stride + d)] = 100;
      k.f32[static_cast<std::size_t>(i * k.stride + d)] = static_cast<float>(i);  // each key beats the one before
    }
  for (const Kernels* kernels : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> lse(260);
    kernels->attention.forward(stream, s, q.view(), k.view(), v.view(), nullptr, o.view(), lse.data());
    for (Int i = 0; i < 260; ++i) {
      EXPECT_FLOAT_EQ(lse[static_cast<std::size_t>(i)], 200.0f * static_cast<float>(i));
      for (Int d = 0; d < 4; ++d) EXPECT_FLOAT_EQ(static_cast<float>(o.at(i, d)), static_cast<float>(v.at(i, d)));
    }
  }
}

// A query that is not a number spoils its own row only; no row looks ahead.
TEST(Attention, NotANumberStaysInItsRow) {
  Case c{shape(1, 140, 1, 1, 8, 8), {}};
  Tensor q = c.queries(1), k = c.keys(2), v = c.values(3), o = c.outputs(4);
  q.f32[static_cast<std::size_t>(130 * q.stride)] = std::numeric_limits<float>::quiet_NaN();
  for (const Kernels* kernels : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> lse(140);
    kernels->attention.forward(stream, c.shape, q.view(), k.view(), v.view(), nullptr, o.view(), lse.data());
    for (Int i = 0; i < 140; ++i) EXPECT_EQ(std::isnan(o.at(i, 3)), i == 130);
  }
}

TEST(Attention, RefusesShapesThatDoNotFit) {
  Case c{shape(1, 10, 2, 1, 8, 8), {}};
  Tensor q = c.queries(1), k = c.keys(2), v = c.values(3), o = c.outputs(4);
  c.shape.seq_len = 9;
  for (const Kernels* kernels : all_isas()) {
    Stream stream(kernel_device(), 1);
    std::vector<float> lse(20);
    EXPECT_THROW(kernels->attention.forward(stream, c.shape, q.view(), k.view(), v.view(), nullptr, o.view(), lse.data()),
                 std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
