// Messages, collectives and the world over ranks that are threads. Over MPI: mpi_test.sh. Sums are of whole numbers, so they
// are exact in any order, but for the tests of the order itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <numeric>

#include "lib/comm/collectives.h"
#include "lib/comm/self_comm.h"
#include "lib/comm/thread_comm.h"
#include "lib/comm/world.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int kSizes[] = {1, 2, 3, 4, 7, 8};

void on_ranks(const std::function<void(Comm&)>& body) {
  for (const int n : kSizes) {
    SCOPED_TRACE(n);
    run_thread_ranks(n, [&](std::unique_ptr<Comm> comm) { body(*comm); });
  }
}

// What rank `from` sends to rank `to`: lengths 0, 1, 2, ... differ by pair.
std::vector<char> letter(int from, int to) {
  std::vector<char> text(static_cast<std::size_t>((from * 5 + to * 3) % 7 * 11));
  for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(from * 31 + to * 7 + static_cast<int>(i));
  return text;
}

TEST(Comm, UnevenAndEmptyMessagesBetweenAllPairs) {
  on_ranks([](Comm& comm) {
    std::vector<std::vector<char>> out, in;
    for (int p = 0; p < comm.size(); ++p) {
      out.push_back(letter(comm.rank(), p));
      in.emplace_back(letter(p, comm.rank()).size(), 'x');
    }
    std::vector<SendPiece> sends;
    std::vector<RecvPiece> receives;
    for (int p = 0; p < comm.size(); ++p) {
      const auto k = static_cast<std::size_t>(p);
      sends.push_back({p, out[k].data(), out[k].size()});
      receives.push_back({p, in[k].data(), in[k].size()});
    }
    comm.exchange("test", sends, receives);
    for (int p = 0; p < comm.size(); ++p) EXPECT_EQ(in[static_cast<std::size_t>(p)], letter(p, comm.rank()));
  });
}

TEST(Comm, PiecesMatchInOrderAcrossBatches) {
  on_ranks([](Comm& comm) {
    const int next = (comm.rank() + 1) % comm.size(), before = (comm.rank() + comm.size() - 1) % comm.size();
    const int sent[3] = {comm.rank(), comm.rank() + 100, comm.rank() + 200};
    int seen[3] = {};
    const SendPiece first[] = {{next, &sent[0], 4}, {next, &sent[1], 4}}, second[] = {{next, &sent[2], 4}};
    const RecvPiece one[] = {{before, &seen[0], 4}}, two[] = {{before, &seen[1], 4}, {before, &seen[2], 4}};
    const auto a = comm.start("test", first, one), b = comm.start("test", second, two);
    b->wait();
    a->wait();
    for (int i = 0; i < 3; ++i) EXPECT_EQ(seen[i], before + 100 * i);
  });
}

TEST(Comm, SizesThatDifferAreAnError) {
  const int four = 4;
  int room[2];
  const auto differ = [&](std::unique_ptr<Comm> comm) {
    if (comm->rank() == 0) comm->exchange("test", std::vector<SendPiece>{{1, &four, 4}}, {});
    if (comm->rank() == 1) comm->exchange("test", {}, std::vector<RecvPiece>{{0, room, 8}});
  };
  EXPECT_THROW(run_thread_ranks(2, differ), Error);
  const auto self = make_self_comm("h");
  EXPECT_THROW(self->exchange("test", std::vector<SendPiece>{{0, &four, 4}}, std::vector<RecvPiece>{{0, room, 8}}), Error);
  EXPECT_THROW(make_self_comm("h")->exchange("test", std::vector<SendPiece>{{0, &four, 4}}, {}), Error);
}

TEST(Comm, FailureOfOneRankEndsTheOthers) {
  const auto body = [](std::unique_ptr<Comm> comm) {
    if (comm->rank() == 2) throw Error(Exit::kBadInput, "mine");
    barrier(*comm, "test");
  };
  try {
    run_thread_ranks(4, body);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "mine");
  }
}

TEST(Comm, SplitOrdersByKeyAndGroupsDoNotMix) {
  on_ranks([](Comm& comm) {
    const int n = comm.size(), color = comm.rank() % 3;
    const auto part = comm.split(color, -comm.rank());  // backwards
    const int num_here = (n - color + 2) / 3;
    EXPECT_EQ(part->size(), num_here);
    EXPECT_EQ(part->rank(), num_here - 1 - comm.rank() / 3);
    EXPECT_EQ(part->name_of(part->rank()), comm.name_of(comm.rank()));
    std::int64_t sum[] = {comm.rank(), 1};
    all_reduce_sum(*part, "test", std::span<std::int64_t>(sum));
    std::int64_t expected = 0;
    for (int r = color; r < n; r += 3) expected += r;
    EXPECT_EQ(sum[0], expected);
    EXPECT_EQ(sum[1], num_here);
    EXPECT_EQ(part->split(0, 0)->size(), num_here);
  });
}

TEST(Collectives, BarrierWaitsForAll) {
  for (const int n : kSizes) {
    std::atomic<int> arrived{0};
    run_thread_ranks(n, [&](std::unique_ptr<Comm> comm) {
      for (int round = 1; round <= 20; ++round) {
        ++arrived;
        barrier(*comm, "test");
        EXPECT_GE(arrived, n * round);
      }
    });
  }
}

TEST(Collectives, BroadcastFromEveryRank) {
  on_ranks([](Comm& comm) {
    for (int from = 0; from < comm.size(); ++from) {
      std::vector<std::int64_t> data(13, comm.rank() == from ? from + 7 : -1);
      broadcast(comm, "test", std::as_writable_bytes(std::span(data)), from);
      EXPECT_THAT(data, ::testing::Each(from + 7));
      broadcast(comm, "test", {}, from);
    }
  });
}

TEST(Collectives, AllGatherKeepsOrderAndLengths) {
  on_ranks([](Comm& comm) {
    const auto all = all_gather(comm, "test", std::string(static_cast<std::size_t>(comm.rank() % 3), 'a' + comm.rank()));
    ASSERT_EQ(all.size(), static_cast<std::size_t>(comm.size()));
    for (int r = 0; r < comm.size(); ++r)
      EXPECT_EQ(all[static_cast<std::size_t>(r)], std::string(static_cast<std::size_t>(r % 3), 'a' + r));
  });
}

template <class T>
void check_sums(Comm& comm, std::size_t size) {
  std::vector<T> values(size);
  for (std::size_t i = 0; i < size; ++i) values[i] = static_cast<T>((i % 101) * static_cast<std::size_t>(comm.rank() + 1));
  all_reduce_sum(comm, "test", std::span<T>(values));
  const std::size_t ranks = static_cast<std::size_t>(comm.size() * (comm.size() + 1) / 2);
  for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(values[i], static_cast<T>((i % 101) * ranks)) << i << " of " << size;
}

TEST(Collectives, SumsOfEveryTypeAndSize) {
  on_ranks([](Comm& comm) {
    for (const std::size_t size : {0u, 1u, 7u, 4096u, 4097u, 10007u}) {
      check_sums<float>(comm, size);
      check_sums<double>(comm, size);
      check_sums<std::int64_t>(comm, size);
    }
  });
}

TEST(Collectives, SlabsOfLargeVectors) {
  run_thread_ranks(3, [](std::unique_ptr<Comm> comm) { check_sums<float>(*comm, (std::size_t{1} << 22) + 5); });
}

TEST(Collectives, LargeSumsAreInRankOrderAndTheSameEverywhere) {
  on_ranks([](Comm& comm) {
    const auto value = [](int rank, std::size_t i) {
      return 1.0f / static_cast<float>(rank * 1000 + static_cast<int>(i) + 3);
    };
    std::vector<float> values(5003);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = value(comm.rank(), i);
    all_reduce_sum(comm, "test", std::span(values));
    for (std::size_t i = 0; i < values.size(); ++i) {
      float sum = value(0, i);
      for (int r = 1; r < comm.size(); ++r) sum += value(r, i);
      ASSERT_EQ(values[i], sum) << i;
    }
  });
}

TEST(Collectives, NanStaysVisible) {
  run_thread_ranks(4, [](std::unique_ptr<Comm> comm) {
    std::vector<float> small(3, comm->rank() == 2 ? NAN : 1.0f), large(5000, comm->rank() == 1 ? NAN : 1.0f);
    all_reduce_sum(*comm, "test", std::span(small));
    all_reduce_sum(*comm, "test", std::span(large));
    EXPECT_THAT(small, ::testing::Each(::testing::IsNan()));
    EXPECT_THAT(large, ::testing::Each(::testing::IsNan()));
  });
}

TEST(Collectives, Maximum) {
  on_ranks([](Comm& comm) {
    std::int64_t values[] = {comm.rank(), -comm.rank() - 1, 5};
    all_reduce_max(comm, "test", values);
    EXPECT_THAT(values, ::testing::ElementsAre(comm.size() - 1, -1, 5));
  });
}

}  // namespace
}  // namespace moe
