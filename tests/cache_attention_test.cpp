// Attention over a cache against plain loops: sequences of any length in any order, groups of heads, values inside keys,
// windows, sinks; the same bits whatever the threads and the rows beside. Not here: whole models (kv_cache_test.cpp).
#include <algorithm>
#include <cmath>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Case {
  AttentionShape shape;
  std::vector<std::int32_t> num_keys;  // of each row; its sequence is its own
  bool values_in_keys = false;
  std::int64_t pad = 5;  // columns between the rows of keys; with 8 loads of 16 bytes fit
};

std::vector<Case> cases() {
  const auto shape = [](int H, int Hk, int S, int V, int window = 0) {
    return AttentionShape{
        .num_heads = H, .num_kv_heads = Hk, .head_dim = S, .value_dim = V, .scale = 0.4f, .window = window};
  };
  return {{shape(1, 1, 1, 1), {1}},
          {shape(4, 2, 6, 6), {1, 7, 300, 256}},
          {shape(3, 3, 17, 5, 4), {3, 4, 5, 600}},
          {shape(8, 1, 33, 33), {513, 1}},
          {shape(20, 1, 40, 32), {900}, true},  // more heads than a task has, blocks for all threads
          {shape(2, 2, 64, 64, 256), {1024, 255, 257}},
          {shape(16, 2, 72, 136), {129, 31, 32, 33}, false, 8},
          {shape(12, 4, 24, 16, 70), {200, 64}, false, 8},
          {shape(9, 1, 576, 512), {40}, true, 8}};
}

struct Data {
  std::int64_t room;
  std::vector<std::int64_t> first;
  TestMat q, k, v;
  std::vector<float> sinks;
  Data(const Case& c, DType t)
      : room(*std::max_element(c.num_keys.begin(), c.num_keys.end())),
        q(TestMat::random(t, rows(c), c.shape.num_heads * c.shape.head_dim, 1, 3, 2)),
        k(TestMat::random(t, rows(c) * room, c.shape.num_kv_heads * c.shape.head_dim, 2, c.pad)),
        v(TestMat::random(t, rows(c) * room, c.shape.num_kv_heads * c.shape.value_dim, 3, c.pad / 8 * 8)),
        sinks(random_floats(static_cast<std::size_t>(c.shape.num_heads), 4, -1, 1)) {
    for (std::int64_t t2 = 0; t2 < rows(c); ++t2) first.push_back((rows(c) - 1 - t2) * room);
  }
  static std::int64_t rows(const Case& c) { return static_cast<std::int64_t>(c.num_keys.size()); }
  CMat values(const Case& c) const { return c.values_in_keys ? k.view().slice_cols(0, c.shape.value_dim) : v.view(); }
};

template <class R>
std::vector<R> by_loops(const Case& c, const Data& d, bool sinks) {
  const AttentionShape& s = c.shape;
  std::vector<R> out;
  for (std::size_t t = 0; t < c.num_keys.size(); ++t)
    for (int h = 0; h < s.num_heads; ++h) {
      const int kv = h / (s.num_heads / s.num_kv_heads), n = c.num_keys[t];
      const int begin = s.window > 0 ? std::max(0, n - s.window) : 0;
      const TestMat& values = c.values_in_keys ? d.k : d.v;
      std::vector<R> weight, o(static_cast<std::size_t>(s.value_dim));
      R largest = sinks ? d.sinks[static_cast<std::size_t>(h)] : -1e30f;
      for (int j = begin; j < n; ++j) {
        R x = 0;
        for (int i = 0; i < s.head_dim; ++i)
          x += R(d.q.at(static_cast<std::int64_t>(t), h * s.head_dim + i)) * R(d.k.at(d.first[t] + j, kv * s.head_dim + i));
        weight.push_back(x * R(s.scale));
        largest = std::max(largest, weight.back());
      }
      R sum = sinks ? std::exp(R(d.sinks[static_cast<std::size_t>(h)]) - largest) : R(0);
      for (R& w : weight) sum += w = std::exp(w - largest);
      for (int j = begin; j < n; ++j)
        for (int i = 0; i < s.value_dim; ++i)
          o[static_cast<std::size_t>(i)] +=
              weight[static_cast<std::size_t>(j - begin)] * R(values.at(d.first[t] + j, kv * s.value_dim + i));
      for (const R x : o) out.push_back(x / sum);
    }
  return out;
}

std::vector<float> by_kernel(const Kernels& k, const Case& c, const Data& d, bool sinks, int threads, DType t) {
  Stream stream(kernel_device(), threads);
  AttentionShape shape = c.shape;
  if (sinks) shape.sinks_H = d.sinks.data();
  TestMat o(t, Data::rows(c), c.shape.num_heads * c.shape.value_dim, 2);
  k.cache_attention.forward(stream, shape, d.q.view(), d.k.view(), d.values(c), d.first, c.num_keys, o.view());
  EXPECT_TRUE(o.padding_is_intact());
  return o.values();
}

TEST(CacheAttention, IsAsGoodAsPlainLoops) {
  for (const Kernels* k : all_isas())
    for (const DType t : kDTypes)
      for (const Case& c : cases())
        for (const bool sinks : {false, true}) {
          const Data d(c, t);
          const auto got = by_kernel(*k, c, d, sinks, 2, t);
          const auto want = by_loops<double>(c, d, sinks);
          ASSERT_EQ(got.size(), want.size());
          for (std::size_t i = 0; i < want.size(); ++i)
            ASSERT_LE(std::abs(got[i] - want[i]), t == DType::kF32 ? 2e-6 * c.shape.head_dim : 8e-3) << k->isa << " " << i;
        }
}

TEST(CacheAttention, BitsDependOnTheOwnSequenceAlone) {
  for (const Kernels* k : all_isas())
    for (const Case& c : cases()) {
      const Data d(c, DType::kF32);
      const auto all = by_kernel(*k, c, d, true, 1, DType::kF32);
      EXPECT_EQ(by_kernel(*k, c, d, true, 3, DType::kF32), all) << k->isa;
      for (std::int64_t t = 0; t < Data::rows(c); ++t) {
        Stream stream(kernel_device(), 4);
        AttentionShape shape = c.shape;
        shape.sinks_H = d.sinks.data();
        const std::int64_t width = std::int64_t{shape.num_heads} * shape.value_dim;
        std::vector<float> one(static_cast<std::size_t>(width));
        const auto at = static_cast<std::size_t>(t);
        k->cache_attention.forward(stream, shape, d.q.view().slice_rows(t, 1), d.k.view(), d.values(c),
                                   std::span(d.first).subspan(at, 1), std::span(c.num_keys).subspan(at, 1),
                                   mat(one.data(), 1, width));
        EXPECT_EQ(one, std::vector<float>(all.begin() + t * width, all.begin() + (t + 1) * width)) << k->isa << " row " << t;
      }
    }
}

TEST(CacheAttention, NotANumberStays) {
  const Case c{{.num_heads = 2, .num_kv_heads = 1, .head_dim = 8, .value_dim = 8}, {700}};
  for (const std::int64_t key : {0, 300, 699}) {
    Data d(c, DType::kF32);
    d.k.set(key, 3, std::nanf(""));
    for (const Kernels* k : all_isas())
      for (const float x : by_kernel(*k, c, d, false, 2, DType::kF32)) EXPECT_TRUE(std::isnan(x)) << k->isa << " " << key;
  }
}

TEST(CacheAttention, RefusesKeysOutsideTheCache) {
  if (tests_cuda()) GTEST_SKIP();  // values are not looked at there
  Stream stream(kernel_device(), 1);
  std::vector<float> x(8);
  const std::vector<std::int64_t> first = {1};
  const std::vector<std::int32_t> num = {2};
  const Mat m = mat(x.data(), 1, 4);
  EXPECT_THROW(cpu_kernels().cache_attention.forward(stream, {.head_dim = 4, .value_dim = 4}, m, mat(x.data(), 2, 4),
                                                     mat(x.data(), 2, 4), first, num, m),
               std::invalid_argument);
}

}  // namespace
}  // namespace moe
