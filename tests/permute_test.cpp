// Plan, gather, combine and values of slots: equality with the definition, since nothing is computed but sums in a fixed
// order.
#include <algorithm>
#include <numeric>

#include "tests/kernel_test.h"

namespace moe {
namespace {

struct Plan {
  std::vector<std::int64_t> psum;
  std::vector<std::int32_t> slot2row, row2slot;
  std::int64_t dropped;
};
Plan make_plan(const Kernels& k, Stream& stream, const std::vector<std::int32_t>& idx, int E, std::int64_t capacity = -1) {
  Plan p{std::vector<std::int64_t>(E + 1, -7), std::vector<std::int32_t>(idx.size(), -7),
         std::vector<std::int32_t>(idx.size(), -7), 0};
  p.dropped = k.permute.plan(stream, idx, E, capacity, p.psum.data(), p.slot2row.data(), p.row2slot.data());
  p.row2slot.resize(static_cast<std::size_t>(p.psum[E]));
  return p;
}

// The definition: slots sorted by (expert, slot), each expert cut after `capacity`.
Plan define_plan(const std::vector<std::int32_t>& idx, int E, std::int64_t capacity) {
  Plan p{{0}, std::vector<std::int32_t>(idx.size(), -1), {}, 0};
  for (int e = 0; e < E; ++e) {
    std::int64_t kept = 0;
    for (std::size_t slot = 0; slot < idx.size(); ++slot) {
      if (idx[slot] != e) continue;
      if (capacity >= 0 && kept == capacity) {
        ++p.dropped;
        continue;
      }
      ++kept;
      p.slot2row[slot] = static_cast<std::int32_t>(p.row2slot.size());
      p.row2slot.push_back(static_cast<std::int32_t>(slot));
    }
    p.psum.push_back(static_cast<std::int64_t>(p.row2slot.size()));
  }
  return p;
}

void expect_plan(const Plan& got, const Plan& want) {
  EXPECT_EQ(got.psum, want.psum);
  EXPECT_EQ(got.slot2row, want.slot2row);
  EXPECT_EQ(got.row2slot, want.row2slot);
  EXPECT_EQ(got.dropped, want.dropped);
}

TEST(Permute, PlanIsTheCountingSort) {
  for (const Kernels* k : all_isas())
    for (const std::int64_t N : {0, 1, 7, 131, 4096})
      for (const int E : {1, 2, 7, 64}) {
        Stream stream(kernel_device(), 2);
        const auto idx = random_ints(N, 3, 0, E);
        for (const std::int64_t capacity : {-1, 0, 1, 5, 100000})
          expect_plan(make_plan(*k, stream, idx, E, capacity), define_plan(idx, E, capacity));
        EXPECT_EQ(make_plan(*k, stream, idx, E).dropped, 0);
      }
}

TEST(Permute, EmptyExpertsAndAllToOne) {
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    const std::vector<std::int32_t> all_to_two(9, 2), ends{5, 0, 5, 0};
    const Plan one = make_plan(*k, stream, all_to_two, 4), two = make_plan(*k, stream, ends, 6, 1);
    EXPECT_EQ(one.psum, (std::vector<std::int64_t>{0, 0, 0, 9, 9}));
    EXPECT_EQ(two.psum, (std::vector<std::int64_t>{0, 1, 1, 1, 1, 1, 2}));
    EXPECT_EQ(two.slot2row, (std::vector<std::int32_t>{1, 0, -1, -1}));
    EXPECT_EQ(two.dropped, 2);
  }
}

// Cut into many pieces on a GPU, more experts than one pass of it has counters for, and slots of one expert in a row.
TEST(Permute, PlansOfManySlotsAndManyExperts) {
  struct {
    std::int64_t N;
    int E;
    bool in_runs;
  } const cases[] = {{140001, 128, false}, {7001, 3, true}, {9001, 512, true}, {20011, 9001, false}};
  for (const Kernels* k : all_isas())
    for (const auto& [N, E, in_runs] : cases) {
      auto idx = random_ints(N, 3, 0, E);
      for (std::int64_t i = 0; i < N && in_runs; ++i) idx[i] = static_cast<std::int32_t>(i / 1000 % E);
      Plan want{{}, std::vector<std::int32_t>(N, -1), std::vector<std::int32_t>(N), 0};
      std::iota(want.row2slot.begin(), want.row2slot.end(), 0);
      std::stable_sort(want.row2slot.begin(), want.row2slot.end(), [&](int a, int b) { return idx[a] < idx[b]; });
      for (std::int64_t r = 0; r < N; ++r) want.slot2row[want.row2slot[r]] = static_cast<std::int32_t>(r);
      want.psum.assign(E + 1, 0);
      for (const std::int32_t e : idx) ++want.psum[e + 1];
      std::partial_sum(want.psum.begin(), want.psum.end(), want.psum.begin());
      Stream stream(kernel_device(), 2);
      expect_plan(make_plan(*k, stream, idx, E), want);
    }
}

struct Shape {
  std::int64_t T, D;
  int K, E;
};
constexpr Shape kShapes[] = {{1, 1, 1, 1}, {7, 7, 2, 3},    {61, 37, 3, 5},  {129, 64, 8, 31}, {300, 131, 2, 8},
                             {0, 3, 2, 2}, {3, 1032, 2, 2}, {2, 4103, 9, 3}, {5, 256, 17, 2}};

TEST(Permute, GatherCopiesExactly) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const DType from : kDTypes)
        for (const DType to : kDTypes) {
          Stream stream(kernel_device(), 3);
          const Plan p = make_plan(*k, stream, random_ints(s.T * s.K, 1, 0, s.E), s.E);
          const std::int64_t pad = s.D % 8 == 0 ? 8 : 1;  // rows of whole 16 bytes, or not
          TestMat x = TestMat::random(from, s.T, s.D, 2, pad), rows(to, s.T * s.K, s.D, 2 * pad);
          k->permute.gather(stream, x.view(), p.row2slot, s.K, rows.view());
          for (std::int64_t r = 0; r < s.T * s.K; ++r)
            for (std::int64_t j = 0; j < s.D; ++j) {
              const float want = x.at(p.row2slot[r] / s.K, j);
              ASSERT_EQ(rows.at(r, j), to == DType::kF32 ? want : to_float(to_bf16(want)));
            }
          EXPECT_TRUE(rows.padding_is_intact());
        }
}

TEST(Permute, CombineAddsInOrderOfK) {
  for (const Kernels* k : all_isas())
    for (const Shape& s : kShapes)
      for (const std::int64_t capacity : {-1, 4})
        for (const DType from : kDTypes)
          for (const DType to : kDTypes)
            for (const Store store : {Store::kAssign, Store::kAdd}) {
              Stream stream(kernel_device(), 2);
              const Plan p = make_plan(*k, stream, random_ints(s.T * s.K, 1, 0, s.E), s.E, capacity);
              const auto R = static_cast<std::int64_t>(p.row2slot.size());
              const std::int64_t pad = s.D % 8 == 0 ? 8 : 1;  // rows of whole 16 bytes, or not
              TestMat rows = TestMat::random(from, R, s.D, 2, pad), x = TestMat::random(to, s.T, s.D, 3, 2 * pad);
              const TestMat old = x;
              k->permute.combine(stream, rows.view(), p.slot2row, s.K, x.view(), store);
              for (std::int64_t t = 0; t < s.T; ++t)
                for (std::int64_t j = 0; j < s.D; ++j) {
                  float sum = 0;
                  for (int i = 0; i < s.K; ++i)
                    if (p.slot2row[t * s.K + i] >= 0) sum += rows.at(p.slot2row[t * s.K + i], j);
                  const float want = store == Store::kAdd ? old.at(t, j) + sum : sum;
                  ASSERT_EQ(x.at(t, j), to == DType::kF32 ? want : to_float(to_bf16(want)));
                }
              EXPECT_TRUE(x.padding_is_intact());
            }
}

// Identity experts: what was gathered comes back K times.
TEST(Permute, CombineOfGatherIsTopKTimes) {
  const Shape s{83, 41, 4, 16};
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 2);
    const Plan p = make_plan(*k, stream, random_ints(s.T * s.K, 1, 0, s.E), s.E);
    TestMat x = TestMat::random(DType::kF32, s.T, s.D, 2), rows(DType::kF32, s.T * s.K, s.D), back(DType::kF32, s.T, s.D);
    k->permute.gather(stream, x.view(), p.row2slot, s.K, rows.view());
    k->permute.combine(stream, rows.view(), p.slot2row, s.K, back.view(), Store::kAssign);
    for (std::int64_t t = 0; t < s.T; ++t)
      for (std::int64_t j = 0; j < s.D; ++j) ASSERT_FLOAT_EQ(back.at(t, j), 4 * x.at(t, j));
  }
}

TEST(Permute, GatherAndCombineAreTransposes) {
  const Shape s{31, 19, 3, 7};
  for (const Kernels* k : all_isas()) {
    Stream stream(kernel_device(), 1);
    const Plan p = make_plan(*k, stream, random_ints(s.T * s.K, 1, 0, s.E), s.E, 9);
    const auto R = static_cast<std::int64_t>(p.row2slot.size());
    TestMat x = TestMat::random(DType::kF32, s.T, s.D, 2), y = TestMat::random(DType::kF32, R, s.D, 3);
    TestMat rows(DType::kF32, R, s.D), back(DType::kF32, s.T, s.D);
    k->permute.gather(stream, x.view(), p.row2slot, s.K, rows.view());
    k->permute.combine(stream, y.view(), p.slot2row, s.K, back.view(), Store::kAssign);
    EXPECT_NEAR(dot(rows.values(), y.values()), dot(x.values(), back.values()), 1e-4);
  }
}

TEST(Permute, ValuesGoThereAndBack) {
  for (const Kernels* k : all_isas())
    for (const std::int64_t N : {0, 1, 7, 257, 1031})
      for (const std::int64_t capacity : {-1, 3}) {
        Stream stream(kernel_device(), 2);
        const Plan p = make_plan(*k, stream, random_ints(N, 1, 0, 37), 37, capacity);
        const std::vector<float> v = random_floats(N, 2, 1, 2);
        std::vector<float> rows(p.row2slot.size(), 9.0f), back(v.size(), 9.0f);
        k->permute.gather_values(stream, v.data(), p.row2slot, rows.data());
        k->permute.return_values(stream, rows.data(), p.slot2row, back.data());
        for (std::size_t r = 0; r < rows.size(); ++r) ASSERT_EQ(rows[r], v[p.row2slot[r]]);
        for (std::size_t i = 0; i < v.size(); ++i) ASSERT_EQ(back[i], p.slot2row[i] < 0 ? 0.0f : v[i]);
      }
}

TEST(Permute, RefusesForeignIndicesAndShapes) {
  Stream stream(kernel_device(), 1);
  TestMat x(DType::kF32, 2, 3), rows(DType::kF32, 4, 3);
  std::vector<std::int64_t> psum(3);
  std::vector<std::int32_t> a(4), b(4);
  const std::vector<std::int32_t> high{0, 1, 2, 4}, low{0, -2, 1, 1}, fine{0, 1, 2, 3}, short_by_one{0, 1, 2};
  for (const Kernels* k : all_isas()) {
    for (const auto& foreign : {high, low}) {
      if (tests_cuda()) continue;  // values are not looked at there
      EXPECT_THROW(k->permute.plan(stream, foreign, 2, -1, psum.data(), a.data(), b.data()), std::invalid_argument);
      EXPECT_THROW(k->permute.gather(stream, x.view(), foreign, 2, rows.view()), std::invalid_argument);
      EXPECT_THROW(k->permute.combine(stream, rows.view(), foreign, 2, x.view(), Store::kAssign), std::invalid_argument);
    }
    EXPECT_THROW(k->permute.plan(stream, fine, 0, -1, psum.data(), a.data(), b.data()), std::invalid_argument);
    EXPECT_THROW(k->permute.gather(stream, x.view(), short_by_one, 2, rows.view()), std::invalid_argument);
    EXPECT_THROW(k->permute.combine(stream, rows.view(), short_by_one, 2, x.view(), Store::kAssign), std::invalid_argument);
    EXPECT_NO_THROW(k->permute.combine(stream, rows.view(), fine, 2, x.view(), Store::kAssign));
  }
}

}  // namespace
}  // namespace moe
