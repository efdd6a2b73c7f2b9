// Embedding: rows copied exactly, gradients added in token order, foreign ids refused.
#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t T, V, D;
  std::int64_t pad = 1;  // factor on the elements that follow a row: with 8, all rows begin at multiples of 16 bytes
};
// The last ones: rows that a GPU's threads read in packs, ids that fill several blocks, rows of several blocks.
constexpr Shape kShapes[] = {{1, 1, 1}, {7, 5, 7},         {64, 256, 131},   {513, 3, 67},
                             {0, 4, 4}, {300, 2500, 8, 8}, {257, 7, 136, 8}, {5, 1, 2100, 4}};

TEST(Embedding, CopiesRowsExactly) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType from : kDTypes)
        for (const DType to : kDTypes) {
          TestMat w = TestMat::random(from, s.V, s.D, 1, s.pad), x(to, s.T, s.D, 3 * s.pad);
          const auto id = random_ints(s.T, 2, 0, s.V);
          Stream stream(kernel_device(), 2);
          k->embedding.forward(stream, id, w.view(), x.view());
          for (std::int64_t t = 0; t < s.T; ++t)
            for (std::int64_t j = 0; j < s.D; ++j)
              ASSERT_EQ(x.at(t, j), to == DType::kF32 ? w.at(id[t], j) : to_float(to_bf16(w.at(id[t], j))));
          EXPECT_TRUE(x.padding_is_intact());
        }
}

TEST(Embedding, AddsGradientsInTokenOrder) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType t : kDTypes) {
        TestMat dx = TestMat::random(t, s.T, s.D, 1, 2 * s.pad), dw = TestMat::random(DType::kF32, s.V, s.D, 3, s.pad);
        const auto id = random_ints(s.T, 2, 0, s.V);
        auto want = dw.values();  // the same sums in the same order: the same bits
        for (std::int64_t i = 0; i < s.T; ++i)
          for (std::int64_t j = 0; j < s.D; ++j) want[id[i] * s.D + j] += dx.at(i, j);
        for (const int threads : {1, 2, 3}) {
          TestMat got = dw;
          Stream stream(kernel_device(), threads);
          k->embedding.backward_weight(stream, id, dx.view(), got.view());
          EXPECT_EQ(got.values(), want);
          EXPECT_TRUE(got.padding_is_intact());
        }
      }
}

TEST(Embedding, GradientIsTheTransposeOfTheCopy) {
  const Shape s{29, 7, 13};
  const auto id = random_ints(s.T, 2, 0, s.V);
  for (const Kernels* k : all_isas()) {
    TestMat w = TestMat::random(DType::kF32, s.V, s.D, 1), x(DType::kF32, s.T, s.D),
            dx = TestMat::random(DType::kF32, s.T, s.D, 3), dw(DType::kF32, s.V, s.D);
    Stream stream(kernel_device(), 2);
    k->embedding.forward(stream, id, w.view(), x.view());
    k->embedding.backward_weight(stream, id, dx.view(), dw.view());
    EXPECT_NEAR(dot(x.values(), dx.values()), dot(w.values(), dw.values()), 1e-5);
  }
}

// One id has all tokens, and ids that do not occur keep their bits.
TEST(Embedding, AllTokensMayHaveOneId) {
  for (const Kernels* k : all_isas()) {
    const std::int64_t T = 700, D = 33;
    TestMat dx = TestMat::random(DType::kF32, T, D, 1), dw = TestMat::random(DType::kF32, 3, D, 2);
    auto want = dw.values();
    for (std::int64_t t = 0; t < T; ++t)
      for (std::int64_t j = 0; j < D; ++j) want[D + j] += dx.at(t, j);
    Stream stream(kernel_device(), 2);
    k->embedding.backward_weight(stream, std::vector<std::int32_t>(T, 1), dx.view(), dw.view());
    EXPECT_EQ(dw.values(), want);
  }
}

TEST(Embedding, RefusesForeignIds) {
  if (tests_cuda()) GTEST_SKIP() << "values are not looked at";
  TestMat w(DType::kF32, 4, 3), x(DType::kF32, 2, 3);
  Stream stream(kernel_device(), 1);
  const std::vector<std::int32_t> high{0, 4}, low{-1, 0};
  for (const Kernels* k : all_isas())
    for (const auto& id : {high, low}) {
      EXPECT_THROW(k->embedding.forward(stream, id, w.view(), x.view()), std::invalid_argument);
      EXPECT_THROW(k->embedding.backward_weight(stream, id, x.view(), w.view()), std::invalid_argument);
    }
}

}  // namespace
}  // namespace moe
