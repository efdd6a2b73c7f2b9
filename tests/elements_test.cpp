// Elements by themselves: copies between dtypes and strides and of rows, sums, swaps.
#include "tests/kernel_test.h"

namespace moe {
namespace {

constexpr std::int64_t kShapes[][2] = {{1, 1}, {7, 13}, {0, 5}, {1, 1000}, {131, 37}};

void check_copies(const Kernels& k, std::int64_t rows, std::int64_t cols, DType a, DType b, std::int64_t pad) {
  SCOPED_TRACE(std::string(k.isa) + " " + name_of(a) + " to " + name_of(b) + " " + std::to_string(rows) + ", pad " +
               std::to_string(pad));
  Stream stream(kernel_device(), 2);
  const TestMat from = TestMat::random(a, rows, cols, 1, 3 * pad), old = TestMat::random(b, rows, cols, 2, pad);
  TestMat to = old, sum = old;
  k.elements.copy(stream, from.view(), to.view(), Store::kAssign);
  k.elements.copy(stream, from.view(), sum.view(), Store::kAdd);
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < cols; ++j) {
      const float v = from.at(i, j), s = old.at(i, j) + v;
      ASSERT_EQ(to.at(i, j), b == DType::kF32 ? v : to_float(to_bf16(v)));
      ASSERT_EQ(sum.at(i, j), b == DType::kF32 ? s : to_float(to_bf16(s)));
    }
  EXPECT_TRUE(to.padding_is_intact() && sum.padding_is_intact());
}

// Rows side by side too.
TEST(Elements, CopyRoundsOnceAndAdds) {
  for (const Kernels* k : all_isas())
    for (const auto& [rows, cols] : kShapes)
      for (const DType a : kDTypes)
        for (const DType b : kDTypes)
          for (const std::int64_t pad : {1, 0}) check_copies(*k, rows, cols, a, b, pad);
}

TEST(Elements, RowsGoWhereTheListsSay) {
  for (const Kernels* k : all_isas())
    for (const DType t : kDTypes) {
      Stream stream(kernel_device(), 2);
      const TestMat from = TestMat::random(t, 40, 37, 1, 3);
      const std::vector<std::int64_t> out = {39, 0, 7, 7, 21}, in = {5, 2, 8, 0, 6};
      const auto N = static_cast<std::int64_t>(in.size());
      for (const bool lists_from : {true, false})
        for (const bool lists_to : {true, false}) {
          TestMat to = TestMat::random(t, 9, 37, 2, 1), want = to;
          k->elements.copy_rows(stream, from.view(), lists_from ? out.data() : nullptr, to.view(),
                                lists_to ? in.data() : nullptr, N);
          for (std::size_t i = 0; i < in.size(); ++i)
            for (std::int64_t j = 0; j < 37; ++j)
              want.set(lists_to ? in[i] : static_cast<std::int64_t>(i), j,
                       from.at(lists_from ? out[i] : static_cast<std::int64_t>(i), j));
          EXPECT_EQ(to.values(), want.values());
          EXPECT_TRUE(to.padding_is_intact());
        }
      TestMat narrow(t, 9, 36);
      EXPECT_THROW(k->elements.copy_rows(stream, from.view(), nullptr, narrow.view(), nullptr, 1), std::invalid_argument);
    }
}

TEST(Elements, SwapLosesNothing) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{1000}, std::size_t{70001}}) {
      Stream stream(kernel_device(), 2);
      std::vector<float> a = random_floats(n, 1, -1, 1), b = random_floats(n, 2, -1, 1);
      const std::vector<float> a0 = a, b0 = b;
      k->elements.swap(stream, a, b);
      EXPECT_EQ(a, b0);
      EXPECT_EQ(b, a0);
    }
}

TEST(Elements, SumIsInTheOrderOfTheList) {
  for (const Kernels* k : all_isas())
    for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{2049}, std::size_t{70001}})
      for (const Store store : {Store::kAssign, Store::kAdd}) {
        Stream stream(kernel_device(), 2);
        std::vector<std::vector<float>> parts;
        for (std::uint64_t r = 0; r < 3; ++r) parts.push_back(random_floats(n, r, -1, 1));
        std::vector<float> to = random_floats(n, 9, -1, 1), want = to;
        for (std::size_t i = 0; i < n; ++i) {
          const float v = parts[0][i] + parts[1][i] + parts[2][i];
          want[i] = store == Store::kAdd ? want[i] + v : v;
        }
        const std::vector<const float*> from = {parts[0].data(), parts[1].data(), parts[2].data()};
        k->elements.sum(stream, from, static_cast<std::int64_t>(n), to.data(), store);
        EXPECT_EQ(to, want);
        if (store == Store::kAdd) continue;  // one of them may be the sum itself
        const std::vector<const float*> itself = {parts[0].data(), to.data(), parts[2].data()};
        for (std::size_t i = 0; i < n; ++i) want[i] = parts[0][i] + want[i] + parts[2][i];
        k->elements.sum(stream, itself, static_cast<std::int64_t>(n), to.data(), store);
        EXPECT_EQ(to, want);
      }
}

TEST(Elements, RefusesOtherShapes) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    TestMat a(DType::kF32, 2, 3), b(DType::kF32, 3, 2);
    std::vector<float> c(3), d(4);
    EXPECT_THROW(k->elements.copy(stream, a.view(), b.view(), Store::kAssign), std::invalid_argument);
    EXPECT_THROW(k->elements.swap(stream, c, d), std::invalid_argument);
  }
}

}  // namespace
}  // namespace moe
