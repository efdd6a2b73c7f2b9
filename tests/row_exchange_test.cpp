// Gather and ordered sum of row shards over groups of thread ranks: empty shards, one row, primes, and tensors of many
// chunks.
#include "lib/parallel/row_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "lib/base/rng.h"
#include "tests/compare.h"
#include "tests/ranks.h"

namespace moe {
namespace {

struct Shape {
  std::int64_t rows, cols;
};
const std::vector<Shape> kSmall{{13, 29}, {1, 7}, {0, 5}, {7, 1}, {101, 3}};
// The shard of one rank is five chunks long, those of the others one and a little.
const std::vector<Shape> kLarge{{1, (std::int64_t{1} << 22) + 12345}, {3, (std::int64_t{1} << 20) + 77}};

// What a rank contributes: sizes so different that the order of the sum shows in its bits.
float value(int rank, std::size_t tensor, std::int64_t i) {
  const auto h = static_cast<std::uint32_t>(i * 2654435761 + rank * 40503 + static_cast<int>(tensor) * 97);
  return static_cast<float>(static_cast<std::int32_t>(h)) * (rank % 2 == 0 ? 1e-3f : 1.0f);
}

void check_reduce(int size, const std::vector<Shape>& shapes, Store store, bool in_place) {
  run_mesh_ranks({1, size, 1}, [&](TestRank& rank) {
    const int me = rank.place.shard;
    const Cut cut{me, size};
    std::vector<std::vector<float>> wholes, sums;
    std::vector<ReduceRows> tensors;
    std::int64_t longest = 0;
    for (int r = 0; r < size; ++r) {
      std::int64_t n = 0;
      for (const Shape& s : shapes) n += (Cut{r, size}.end(s.rows) - Cut{r, size}.begin(s.rows)) * s.cols;
      longest = std::max(longest, n);
    }
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const auto [rows, cols] = shapes[t];
      wholes.emplace_back(static_cast<std::size_t>(rows * cols));
      for (std::int64_t i = 0; i < rows * cols; ++i) wholes[t][static_cast<std::size_t>(i)] = value(me, t, i);
      sums.emplace_back(static_cast<std::size_t>((cut.end(rows) - cut.begin(rows)) * cols), 3.0f);
    }
    for (std::size_t t = 0; t < shapes.size(); ++t)
      tensors.push_back({wholes[t].data(),
                         in_place ? wholes[t].data() + cut.begin(shapes[t].rows) * shapes[t].cols : sums[t].data(),
                         shapes[t].rows, shapes[t].cols});
    std::vector<float> staging(static_cast<std::size_t>(staging_floats(size, longest)));
    rank.lane.call("reduce", [&] { reduce_rows(*rank.dense, "test", tensors, store, staging, rank.lane_env()); });
    for (std::size_t t = 0; t < shapes.size(); ++t) {
      const std::int64_t begin = cut.begin(shapes[t].rows) * shapes[t].cols;
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < sums[t].size(); ++i) {
        const std::int64_t at = begin + static_cast<std::int64_t>(i);
        float want = value(0, t, at);
        for (int r = 1; r < size; ++r) want += value(r, t, at);
        if (store == Store::kAdd) want = 3.0f + want;
        wrong += !(tensors[t].sum[i] == want);
      }
      EXPECT_EQ(wrong, 0) << "tensor " << t << " rank " << me << " of " << size;
    }
  });
}

TEST(RowExchange, SumsInTheOrderOfTheRanks) {
  for (const int size : {1, 2, 3, 4, 7})
    for (const Store store : {Store::kAssign, Store::kAdd}) {
      check_reduce(size, kSmall, store, false);
      if (store == Store::kAssign) check_reduce(size, kSmall, store, true);
    }
}

TEST(RowExchange, SumsLongShardsInChunks) {
  check_reduce(2, kLarge, Store::kAdd, false);
  check_reduce(3, kLarge, Store::kAssign, true);
}

TEST(RowExchange, StagingIsBounded) {
  EXPECT_EQ(staging_floats(1, 1000), 0);
  EXPECT_EQ(staging_floats(3, 1000), 2 * 2 * 1000);
  for (const int size : {2, 8, 64, 256}) EXPECT_LE(staging_floats(size, std::int64_t{1} << 40), std::int64_t{1} << 23);
}

TEST(RowExchange, TooLittleStagingIsNamed) {
  run_mesh_ranks({1, 2, 1}, [](TestRank& rank) {
    std::vector<float> whole(10);
    const ReduceRows tensor{whole.data(), whole.data(), 10, 1};
    EXPECT_THROW(rank.lane.call("reduce",
                                [&] {
                                  reduce_rows(*rank.dense, "test", {&tensor, 1}, Store::kAssign, {}, rank.lane_env());
                                }),
                 std::logic_error);
  });
}

TEST(RowExchange, GathersFromShardsAndInPlace) {
  for (const int size : {1, 2, 3, 4, 7})
    for (const bool in_place : {false, true})
      run_mesh_ranks({1, size, 1}, [&](TestRank& rank) {
        const Cut cut{rank.place.shard, size};
        std::vector<std::vector<float>> wholes, shards;
        std::vector<GatherRows> tensors;
        for (std::size_t t = 0; t < kSmall.size(); ++t) {
          const auto [rows, cols] = kSmall[t];
          const std::int64_t begin = cut.begin(rows) * cols, end = cut.end(rows) * cols;
          wholes.emplace_back(static_cast<std::size_t>(rows * cols), -1.0f);
          shards.emplace_back();
          for (std::int64_t i = begin; i < end; ++i) shards[t].push_back(value(0, t, i));
          if (in_place) std::copy(shards[t].begin(), shards[t].end(), wholes[t].begin() + begin);
        }
        for (std::size_t t = 0; t < kSmall.size(); ++t) {
          const auto [rows, cols] = kSmall[t];
          const float* own = in_place ? wholes[t].data() + cut.begin(rows) * cols : shards[t].data();
          tensors.push_back({reinterpret_cast<std::byte*>(wholes[t].data()), own, rows, static_cast<std::size_t>(cols) * 4});
        }
        rank.lane.call("gather", [&] { gather_rows(*rank.dense, "test", tensors, rank.lane_stream); });
        for (std::size_t t = 0; t < kSmall.size(); ++t)
          for (std::size_t i = 0; i < wholes[t].size(); ++i)
            EXPECT_EQ(wholes[t][i], value(0, t, static_cast<std::int64_t>(i))) << "tensor " << t << " element " << i;
      });
}

}  // namespace
}  // namespace moe
