// Keys and values of latent attention between up-projection and attention: equality where nothing is computed, the sum over
// heads against double, join as the transpose of split.
#include "tests/kernel_test.h"

namespace moe {
namespace {

using Int = std::int64_t;

struct Case {
  Int T;
  LatentShape shape;
  Int pad = 1;  // factor on the elements that follow a row: with 8, all rows begin at multiples of 16 bytes
  Int H() const { return shape.num_heads; }
  Int N() const { return shape.nope_dim; }
  Int R() const { return shape.rope_dim; }
  Int V() const { return shape.value_dim; }
};
constexpr Case kCases[] = {{1, {1, 1, 2, 1}}, {7, {3, 5, 4, 11}},      {113, {2, 16, 8, 24}},   {9, {16, 128, 64, 128}},
                           {0, {2, 3, 2, 3}}, {17, {9, 16, 8, 24}, 8}, {3, {33, 64, 16, 32}, 8}};

TEST(Latent, SplitPutsEveryElementInItsPlace) {
  for (const Kernels* kernels : all_isas())
    for (const Case& c : kCases)
      for (const DType t : kDTypes) {
        const TestMat kv = TestMat::random(t, c.T, c.H() * (c.N() + c.V()), 1, 3 * c.pad),
                      rope = TestMat::random(t, c.T, c.R(), 2, 5 * c.pad);
        TestMat k(t, c.T, c.H() * (c.N() + c.R()), 2 * c.pad), v(t, c.T, c.H() * c.V(), c.pad);
        Stream stream(kernel_device(), 2);
        kernels->latent.split(stream, c.shape, kv.view(), rope.view(), k.view(), v.view());
        for (Int i = 0; i < c.T; ++i)
          for (Int h = 0; h < c.H(); ++h) {
            const Int key = h * (c.N() + c.R()), up = h * (c.N() + c.V());
            for (Int j = 0; j < c.N(); ++j) ASSERT_EQ(k.at(i, key + j), kv.at(i, up + j));
            for (Int j = 0; j < c.R(); ++j) ASSERT_EQ(k.at(i, key + c.N() + j), rope.at(i, j));
            for (Int j = 0; j < c.V(); ++j) ASSERT_EQ(v.at(i, h * c.V() + j), kv.at(i, up + c.N() + j));
          }
        EXPECT_TRUE(k.padding_is_intact() && v.padding_is_intact());
      }
}

TEST(Latent, JoinIsTheTranspose) {
  for (const Kernels* kernels : all_isas())
    for (const Case& c : kCases)
      for (const DType t : kDTypes) {
        const TestMat dk = TestMat::random(t, c.T, c.H() * (c.N() + c.R()), 1, 3 * c.pad),
                      dv = TestMat::random(t, c.T, c.H() * c.V(), 2);
        TestMat dkv(t, c.T, c.H() * (c.N() + c.V()), 2 * c.pad), drope(t, c.T, c.R(), 4 * c.pad);
        Stream stream(kernel_device(), 2);
        kernels->latent.join(stream, c.shape, dk.view(), dv.view(), dkv.view(), drope.view());
        std::vector<float> naive;
        std::vector<double> truth;
        for (Int i = 0; i < c.T; ++i) {
          for (Int h = 0; h < c.H(); ++h) {
            const Int key = h * (c.N() + c.R()), up = h * (c.N() + c.V());
            for (Int j = 0; j < c.N(); ++j) ASSERT_EQ(dkv.at(i, up + j), dk.at(i, key + j));
            for (Int j = 0; j < c.V(); ++j) ASSERT_EQ(dkv.at(i, up + c.N() + j), dv.at(i, h * c.V() + j));
          }
          for (Int j = 0; j < c.R(); ++j) {
            naive.push_back(0), truth.push_back(0);
            for (Int h = 0; h < c.H(); ++h) {
              naive.back() += dk.at(i, h * (c.N() + c.R()) + c.N() + j);
              truth.back() += double{dk.at(i, h * (c.N() + c.R()) + c.N() + j)};
            }
          }
        }
        EXPECT_TRUE(as_good_as_naive(drope.values(), naive, truth, t)) << kernels->isa;
        EXPECT_TRUE(dkv.padding_is_intact() && drope.padding_is_intact());
      }
}

// ---- absorb and expand are the heads' products with their parts of w.

struct Absorbed {
  Int T;
  LatentShape shape;
  Int C;
  Int pad = 1;
};
constexpr Absorbed kAbsorbed[] = {{19, {3, 5, 4, 7}, 37},     {1, {1, 1, 2, 1}, 1},       {0, {2, 3, 2, 3}, 8},
                                  {1, {4, 16, 8, 16}, 64, 8}, {9, {2, 33, 8, 9}, 264, 8}, {17, {2, 8, 4, 24}, 260, 4}};

template <class R>
std::vector<R> absorbed(const Absorbed& c, const TestMat& q, const TestMat& w) {
  const Int N = c.shape.nope_dim, V = c.shape.value_dim, width = N + c.shape.rope_dim;
  std::vector<R> out;
  for (Int t = 0; t < c.T; ++t)
    for (Int h = 0; h < c.shape.num_heads; ++h) {
      for (Int j = 0; j < c.C; ++j) {
        R sum = 0;
        for (Int n = 0; n < N; ++n) sum += R(q.at(t, h * width + n)) * R(w.at(h * (N + V) + n, j));
        out.push_back(sum);
      }
      for (Int j = N; j < width; ++j) out.push_back(q.at(t, h * width + j));
    }
  return out;
}
template <class R>
std::vector<R> expanded(const Absorbed& c, const TestMat& a, const TestMat& w) {
  const Int N = c.shape.nope_dim, V = c.shape.value_dim;
  std::vector<R> out;
  for (Int t = 0; t < c.T; ++t)
    for (Int h = 0; h < c.shape.num_heads; ++h)
      for (Int v = 0; v < V; ++v) {
        R sum = 0;
        for (Int j = 0; j < c.C; ++j) sum += R(a.at(t, h * c.C + j)) * R(w.at(h * (N + V) + N + v, j));
        out.push_back(sum);
      }
  return out;
}

TEST(Latent, AbsorbAndExpandAreProducts) {
  for (const Kernels* k : all_isas())
    for (const Absorbed& c : kAbsorbed)
      for (const DType t : kDTypes) {
        const Int H = c.shape.num_heads, N = c.shape.nope_dim, R = c.shape.rope_dim, V = c.shape.value_dim;
        const TestMat q = TestMat::random(t, c.T, H * (N + R), 1, 2), w = TestMat::random(t, H * (N + V), c.C, 2, c.pad),
                      a = TestMat::random(t, c.T, H * c.C, 3, c.pad);
        TestMat qa(t, c.T, H * (c.C + R), 1), o(t, c.T, H * V, 3);
        Stream stream(kernel_device(), 2);
        k->latent.absorb(stream, c.shape, q.view(), w.view(), qa.view());
        k->latent.expand(stream, c.shape, a.view(), w.view(), o.view());
        EXPECT_TRUE(qa.padding_is_intact() && o.padding_is_intact());
        EXPECT_TRUE(as_good_as_naive(qa.values(), absorbed<float>(c, q, w), absorbed<double>(c, q, w), t)) << k->isa;
        EXPECT_TRUE(as_good_as_naive(o.values(), expanded<float>(c, a, w), expanded<double>(c, a, w), t)) << k->isa;
      }
}

TEST(Latent, BitsDoNotDependOnThreads) {
  const Case c{301, {5, 24, 16, 20}};
  for (const Kernels* kernels : all_isas())
    expect_same_bits_with_any_threads([&](Stream& stream) {
      const TestMat dk = TestMat::random(DType::kF32, c.T, c.H() * (c.N() + c.R()), 1),
                    dv = TestMat::random(DType::kF32, c.T, c.H() * c.V(), 2);
      TestMat dkv(DType::kF32, c.T, c.H() * (c.N() + c.V())), drope(DType::kF32, c.T, c.R());
      kernels->latent.join(stream, c.shape, dk.view(), dv.view(), dkv.view(), drope.view());
      return drope.values();
    });
}

TEST(Latent, RefusesShapesAndMixedTypes) {
  Stream stream(kernel_device(), 1);
  const LatentShape s{2, 3, 2, 4};
  TestMat kv(DType::kF32, 5, 14), rope(DType::kF32, 5, 2), k(DType::kF32, 5, 10), v(DType::kF32, 5, 8);
  TestMat narrow(DType::kF32, 5, 7), short_rope(DType::kF32, 4, 2), bf16(DType::kBF16, 5, 8);
  for (const Kernels* kernels : all_isas()) {
    const auto split = kernels->latent.split;
    EXPECT_THROW(split(stream, s, narrow.view(), rope.view(), k.view(), v.view()), std::invalid_argument);
    EXPECT_THROW(split(stream, s, kv.view(), short_rope.view(), k.view(), v.view()), std::invalid_argument);
    EXPECT_THROW(split(stream, s, kv.view(), rope.view(), k.view(), bf16.view()), std::invalid_argument);
    EXPECT_THROW(split(stream, {0, 3, 2, 4}, kv.view(), rope.view(), k.view(), v.view()), std::invalid_argument);
    EXPECT_THROW(kernels->latent.join(stream, s, k.view(), v.view(), narrow.view(), rope.view()), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
