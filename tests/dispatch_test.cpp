// Dispatch against a serial model of who receives what, by equality: nothing is computed but sums, and those of whole
// numbers are exact. Ranks are threads. Not here: MPI (world tests), speed (moe-bench).
#include "lib/comm/dispatch.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>
#include <tuple>

#include "lib/base/error.h"
#include "lib/comm/thread_comm.h"
#include "tests/dispatch_model.h"
#include "tests/kernel_test.h"

namespace moe {
namespace {

constexpr std::int64_t kPad = 3;  // rows of a Mat need not be packed

// A whole number that tells rank, token and column; its square sums stay below 2^53.
float token_value(int rank, std::int64_t t, std::int64_t j) { return static_cast<float>(rank * 1000 + t * 10 + j % 10 + 1); }

TestMat tokens_of(const DispatchCase& c, int rank, std::int64_t D) {
  TestMat x(DType::kF32, c.num_tokens(rank), D, kPad);
  for (std::int64_t t = 0; t < c.num_tokens(rank); ++t)
    for (std::int64_t j = 0; j < D; ++j) x.set(t, j, token_value(rank, t, j));
  return x;
}

TestMat whole_numbers(std::int64_t rows, std::int64_t cols, std::uint64_t seed, int range = 50, DType t = DType::kF32) {
  TestMat m(t, rows, cols, kPad);
  const auto values = random_ints(static_cast<std::size_t>(rows * cols), seed, -range, range + 1);
  for (std::int64_t i = 0; i < rows * cols; ++i) m.set(i / cols, i % cols, static_cast<float>(values[i]));
  return m;
}

double dot(const TestMat& a, const TestMat& b) {
  double sum = 0;
  for (std::int64_t i = 0; i < a.rows(); ++i)
    for (std::int64_t j = 0; j < a.cols(); ++j) sum += static_cast<double>(a.at(i, j)) * b.at(i, j);
  return sum;
}

// One rank of a case, planned.
struct Rank {
  Rank(const DispatchCase& c, Comm& comm, DispatchMode mode)
      : c(c), me(comm.rank()), dispatcher(comm, c.rank2node, c.map, mode, stream, cpu_kernels()) {
    plan(c, route);
  }
  void plan(const DispatchCase& other, Route& to) {
    std::int64_t tokens_of_group = 0;
    for (int r = 0; r < other.num_ranks(); ++r) tokens_of_group += other.num_tokens(r);
    const int L = static_cast<int>(c.map.rank2experts[me].size());
    gate_R.assign(Dispatcher::max_rows(tokens_of_group, other.top_k, L), -7);
    dispatcher.plan(other.idx[me], other.gate[me], other.top_k, to, gate_R);
  }
  TestMat dispatched(const TestMat& x, const Route& along) {
    TestMat y(x.dtype(), along.num_rows, x.cols(), kPad);
    dispatcher.dispatch(along, x.view(), y.view());
    EXPECT_TRUE(y.padding_is_intact());
    return y;
  }
  TestMat combined(const TestMat& y, const Route& along, std::int64_t num_tokens) {
    TestMat x(y.dtype(), num_tokens, y.cols(), kPad);
    dispatcher.combine(along, y.view(), x.view(), Store::kAssign);
    EXPECT_TRUE(x.padding_is_intact());
    return x;
  }

  const DispatchCase& c;
  int me;
  Stream stream{1};
  Dispatcher dispatcher;
  Route route;
  std::vector<float> gate_R;
};

void expect_rows(const DispatchCase& c, const std::vector<ModelRow>& want, const Rank& rank, const TestMat& y) {
  ASSERT_EQ(rank.route.num_rows, static_cast<std::int64_t>(want.size()));
  std::vector<std::int64_t> psum(c.map.rank2experts[rank.me].size() + 1);
  for (std::size_t r = 0; r < want.size(); ++r) {
    ++psum[c.map.expert2local[want[r].expert] + 1];
    ASSERT_EQ(rank.gate_R[r], c.gate[want[r].source][want[r].slot]);
    for (std::int64_t j = 0; j < y.cols(); ++j)
      ASSERT_EQ(y.at(static_cast<std::int64_t>(r), j), token_value(want[r].source, want[r].token, j)) << "row " << r;
  }
  std::partial_sum(psum.begin(), psum.end(), psum.begin());
  EXPECT_EQ(rank.route.psum_rows_L1, psum);
}

// Sum of a token's rows: kept slots times the token.
void expect_multiples(const DispatchCase& c, int me, const TestMat& x, const TestMat& back) {
  for (std::int64_t t = 0; t < x.rows(); ++t)
    for (std::int64_t j = 0; j < x.cols(); ++j) ASSERT_EQ(back.at(t, j), c.num_kept(me, t) * x.at(t, j));
}

void expect_gates(const DispatchCase& c, const DispatchModel& model, Rank& rank) {
  std::vector<float> dgate_R(rank.route.num_rows), dgate_N(c.idx[rank.me].size(), -7), want(dgate_N.size(), 0);
  std::iota(dgate_R.begin(), dgate_R.end(), static_cast<float>(1 + rank.me * 100000));
  rank.dispatcher.return_gates(rank.route, dgate_R, dgate_N);
  for (int d = 0; d < c.num_ranks(); ++d)
    for (std::size_t r = 0; r < model.rows[d].size(); ++r)
      if (model.rows[d][r].source == rank.me) want[model.rows[d][r].slot] = static_cast<float>(1 + d * 100000 + r);
  EXPECT_EQ(dgate_N, want);
}

void expect_traffic(const DispatchTraffic& got, const DispatchTraffic& want) {
  EXPECT_EQ(got.inter_node_bytes, want.inter_node_bytes);
  EXPECT_EQ(got.intra_node_bytes, want.intra_node_bytes);
  EXPECT_EQ(got.inter_node_rows, want.inter_node_rows);
  EXPECT_EQ(got.intra_node_rows, want.intra_node_rows);
  EXPECT_EQ(got.inter_node_bytes_min, want.inter_node_bytes_min);
}

// Everything that is true of one case on every rank; <dispatch(x), y> = <x, combine(y)> over all of them.
void check_case(const DispatchCase& c, DispatchMode mode, std::int64_t D) {
  const DispatchModel model(c, mode == DispatchMode::kTwoLevel, D * 4);
  std::vector<double> there(c.num_ranks()), back(c.num_ranks());
  run_thread_ranks(c.num_ranks(), [&](std::unique_ptr<Comm> comm) {
    Rank rank(c, *comm, mode);
    const int me = rank.me;
    EXPECT_EQ(rank.dispatcher.take_traffic().control_bytes, model.control_bytes[me]);
    const TestMat x = tokens_of(c, me, D), y = rank.dispatched(x, rank.route);
    expect_traffic(rank.dispatcher.take_traffic(), model.dispatch[me]);
    expect_rows(c, model.rows[me], rank, y);
    const TestMat sums = rank.combined(y, rank.route, c.num_tokens(me));
    expect_traffic(rank.dispatcher.take_traffic(), model.combine[me]);
    expect_multiples(c, me, x, sums);
    expect_gates(c, model, rank);
    const TestMat z = whole_numbers(rank.route.num_rows, D, 31 + me);
    there[me] = dot(y, z);
    back[me] = dot(x, rank.combined(z, rank.route, c.num_tokens(me)));
    const TestMat again = rank.dispatched(x, rank.route);
    EXPECT_EQ(again.values(), y.values());
  });
  EXPECT_EQ(std::accumulate(there.begin(), there.end(), 0.0), std::accumulate(back.begin(), back.end(), 0.0));
}

const std::vector<std::vector<int>> kNodes = {{0},
                                              {0, 0},
                                              {0, 1},
                                              {5, 5, 3},
                                              {0, 0, 0, 1},
                                              {1, 0, 0, 0},
                                              {0, 0, 1, 1},
                                              {0, 1, 0, 1},
                                              {0, 0, 0, 0},
                                              {0, 1, 2, 3},
                                              {2, 2, 0, 0, 0, 1, 2},
                                              {0, 0, 0, 0, 1, 1, 1, 1},
                                              {0, 1, 2, 0, 1, 2, 0, 1}};

class Dispatch : public ::testing::TestWithParam<DispatchMode> {};
INSTANTIATE_TEST_SUITE_P(Modes, Dispatch, ::testing::Values(DispatchMode::kFlat, DispatchMode::kTwoLevel),
                         [](const auto& info) { return info.param == DispatchMode::kFlat ? "Flat" : "TwoLevel"; });

void check_all_nodes(MapKind map, const std::vector<Routing>& routings, DispatchMode mode) {
  for (const auto& nodes : kNodes)
    for (const Routing routing : routings) {
      SCOPED_TRACE(::testing::Message() << ::testing::PrintToString(nodes) << " routing " << static_cast<int>(routing));
      check_case(make_dispatch_case(nodes, map, routing), mode, 7);
    }
}

TEST_P(Dispatch, IsTheSerialModel) {
  check_all_nodes(MapKind::kLinear,
                  {Routing::kRandom, Routing::kDropped, Routing::kAllToOne, Routing::kAllExperts, Routing::kSomeRanksEmpty,
                   Routing::kAllDropped, Routing::kNoTokens},
                  GetParam());
}

TEST_P(Dispatch, MoreRanksThanExperts) {
  check_all_nodes(MapKind::kFewExperts, {Routing::kAllExperts, Routing::kSomeRanksEmpty}, GetParam());
}

TEST_P(Dispatch, ExpertsInAnyOrderAndRanksWithout) {
  check_all_nodes(MapKind::kPermuted, {Routing::kDropped, Routing::kAllToOne}, GetParam());
}

TEST_P(Dispatch, OddWidthsAndOneColumn) {
  for (const std::int64_t D : {1, 37, 64})
    check_case(make_dispatch_case({0, 0, 1, 1}, MapKind::kLinear, Routing::kRandom), GetParam(), D);
}

TEST_P(Dispatch, RowsOfBf16) {
  const DispatchCase c = make_dispatch_case({0, 0, 1, 1, 1}, MapKind::kPermuted, Routing::kDropped);
  const DispatchModel model(c, GetParam() == DispatchMode::kTwoLevel, 0);
  std::vector<TestMat> x_of;
  for (int r = 0; r < c.num_ranks(); ++r) x_of.push_back(whole_numbers(c.num_tokens(r), 13, r, 40, DType::kBF16));
  run_thread_ranks(c.num_ranks(), [&](std::unique_ptr<Comm> comm) {
    Rank rank(c, *comm, GetParam());
    const TestMat& x = x_of[rank.me];
    const TestMat y = rank.dispatched(x, rank.route);
    EXPECT_EQ(rank.dispatcher.take_traffic().inter_node_bytes % (13 * 2), 0);
    for (std::int64_t r = 0; r < y.rows(); ++r)
      for (std::int64_t j = 0; j < 13; ++j)
        ASSERT_EQ(y.at(r, j), x_of[model.rows[rank.me][r].source].at(model.rows[rank.me][r].token, j));
    expect_multiples(c, rank.me, x, rank.combined(y, rank.route, x.rows()));
    TestMat wide(DType::kF32, x.rows(), 13, kPad), narrow(DType::kBF16, y.rows(), 13, kPad);
    rank.dispatcher.combine(rank.route, y.view(), wide.view(), Store::kAssign);
    expect_multiples(c, rank.me, x, wide);
    rank.dispatcher.dispatch(rank.route, x.view(), narrow.view());
    EXPECT_EQ(narrow.values(), y.values());
  });
}

TEST_P(Dispatch, AddRoundsLikeAssignAndOneAddition) {
  const DispatchCase c = make_dispatch_case({0, 0, 0, 1}, MapKind::kLinear, Routing::kRandom);
  run_thread_ranks(c.num_ranks(), [&](std::unique_ptr<Comm> comm) {
    Rank rank(c, *comm, GetParam());
    const TestMat y = TestMat::random(DType::kF32, rank.route.num_rows, 37, 5 + rank.me, kPad);
    const TestMat sums = rank.combined(y, rank.route, c.num_tokens(rank.me));
    TestMat x = TestMat::random(DType::kF32, sums.rows(), 37, 50 + rank.me, kPad);
    const TestMat before = x;
    rank.dispatcher.combine(rank.route, y.view(), x.view(), Store::kAdd);
    for (std::int64_t t = 0; t < x.rows(); ++t)
      for (std::int64_t j = 0; j < 37; ++j) ASSERT_EQ(x.at(t, j), before.at(t, j) + sums.at(t, j));
  });
}

TEST_P(Dispatch, TwoRunsGiveTheSameBits) {
  const DispatchCase c = make_dispatch_case({2, 2, 0, 0, 0, 1, 2}, MapKind::kPermuted, Routing::kRandom);
  std::vector<std::vector<float>> bits[2] = {std::vector<std::vector<float>>(7), std::vector<std::vector<float>>(7)};
  for (auto& run : bits)
    run_thread_ranks(c.num_ranks(), [&](std::unique_ptr<Comm> comm) {
      Rank rank(c, *comm, GetParam());
      const TestMat y = TestMat::random(DType::kF32, rank.route.num_rows, 37, 5 + rank.me);
      run[rank.me] = rank.combined(y, rank.route, c.num_tokens(rank.me)).values();
    });
  for (int r = 0; r < 7; ++r) EXPECT_TRUE(same_bits(bits[0][r], bits[1][r]));
}

TEST_P(Dispatch, RoutesLiveSideBySideAndAreFilledAgain) {
  const DispatchCase a = make_dispatch_case({0, 0, 1, 1}, MapKind::kLinear, Routing::kRandom);
  const DispatchCase b = make_dispatch_case({0, 0, 1, 1}, MapKind::kLinear, Routing::kDropped, 3);
  run_thread_ranks(4, [&](std::unique_ptr<Comm> comm) {
    Rank rank(a, *comm, GetParam());
    const TestMat xa = tokens_of(a, rank.me, 11), xb = tokens_of(b, rank.me, 5);
    const TestMat ya = rank.dispatched(xa, rank.route);
    Route other;
    rank.plan(b, other);
    const TestMat yb = rank.dispatched(xb, other);
    EXPECT_EQ(rank.dispatched(xa, rank.route).values(), ya.values());
    expect_multiples(b, rank.me, xb, rank.combined(yb, other, xb.rows()));
    expect_multiples(a, rank.me, xa, rank.combined(ya, rank.route, xa.rows()));
    rank.plan(b, rank.route);
    EXPECT_EQ(rank.dispatched(xb, rank.route).values(), yb.values());
    rank.plan(a, other);
    const Route moved = std::move(other);
    EXPECT_EQ(rank.dispatched(xa, moved).values(), ya.values());
  });
}

TEST(DispatchModes, GiveTheSameRows) {
  for (const auto& nodes : kNodes) {
    const DispatchCase c = make_dispatch_case(nodes, MapKind::kPermuted, Routing::kDropped);
    using Rows = std::set<std::tuple<int, std::vector<float>, float>>;  // expert, row, gate
    std::vector<Rows> rows[2] = {std::vector<Rows>(nodes.size()), std::vector<Rows>(nodes.size())};
    for (const bool two_level : {false, true})
      run_thread_ranks(c.num_ranks(), [&](std::unique_ptr<Comm> comm) {
        Rank rank(c, *comm, two_level ? DispatchMode::kTwoLevel : DispatchMode::kFlat);
        const TestMat y = rank.dispatched(tokens_of(c, rank.me, 7), rank.route);
        for (std::size_t l = 0; l + 1 < rank.route.psum_rows_L1.size(); ++l)
          for (auto r = rank.route.psum_rows_L1[l]; r < rank.route.psum_rows_L1[l + 1]; ++r) {
            std::vector<float> row;
            for (std::int64_t j = 0; j < 7; ++j) row.push_back(y.at(r, j));
            rows[two_level][rank.me].emplace(static_cast<int>(l), row, rank.gate_R[r]);
          }
      });
    EXPECT_EQ(rows[0], rows[1]);
  }
}

TEST(DispatchModes, TwoLevelCrossesNodesWithTheLeastBytes) {
  for (const auto& nodes : kNodes) {
    const DispatchCase c = make_dispatch_case(nodes, MapKind::kLinear, Routing::kRandom);
    std::vector<DispatchTraffic> back(nodes.size());
    run_thread_ranks(c.num_ranks(), [&](std::unique_ptr<Comm> comm) {
      Rank rank(c, *comm, DispatchMode::kTwoLevel);
      const TestMat y = rank.dispatched(tokens_of(c, rank.me, 7), rank.route);
      const DispatchTraffic there = rank.dispatcher.take_traffic();
      EXPECT_EQ(there.inter_node_bytes, there.inter_node_bytes_min);
      rank.combined(y, rank.route, c.num_tokens(rank.me));
      back[rank.me] = rank.dispatcher.take_traffic();
    });
    std::int64_t bytes = 0, least = 0;
    for (const DispatchTraffic& t : back) bytes += t.inter_node_bytes, least += t.inter_node_bytes_min;
    EXPECT_EQ(bytes, least);
  }
}

TEST(DispatchModes, AutoTakesTwoLevelsWhereTheyHelp) {
  const auto mode_of = [](const std::vector<int>& nodes, DispatchMode wanted) {
    DispatchMode mode = DispatchMode::kAuto;
    run_thread_ranks(static_cast<int>(nodes.size()), [&](std::unique_ptr<Comm> comm) {
      Stream stream(kernel_device(), 1);
      const Dispatcher d(*comm, nodes, linear_expert_map(4, comm->size()), wanted, stream, cpu_kernels());
      if (comm->rank() == 0) mode = d.mode();
    });
    return mode;
  };
  EXPECT_EQ(mode_of({0}, DispatchMode::kAuto), DispatchMode::kFlat);
  EXPECT_EQ(mode_of({0, 0}, DispatchMode::kAuto), DispatchMode::kFlat);
  EXPECT_EQ(mode_of({0, 1}, DispatchMode::kAuto), DispatchMode::kFlat);
  EXPECT_EQ(mode_of({0, 0, 1}, DispatchMode::kAuto), DispatchMode::kTwoLevel);
  EXPECT_EQ(mode_of({0, 0}, DispatchMode::kTwoLevel), DispatchMode::kTwoLevel);
  EXPECT_EQ(mode_of({0, 0, 1}, DispatchMode::kFlat), DispatchMode::kFlat);
}

TEST(DispatchErrors, AreRefused) {
  run_thread_ranks(1, [](std::unique_ptr<Comm> comm) {
    Stream stream(kernel_device(), 1);
    const ExpertMap map = linear_expert_map(4, 1);
    Dispatcher d(*comm, {0}, map, DispatchMode::kAuto, stream, cpu_kernels());
    Route route;
    std::vector<float> gate_N(4, 1), gate_R(4);
    const auto plan = [&](std::vector<std::int32_t> idx_N, int top_k, std::size_t room) {
      d.plan(idx_N, gate_N, top_k, route, std::span(gate_R).first(room));
    };
    TestMat x(DType::kF32, 2, 3), y(DType::kF32, 3, 3);
    EXPECT_THROW(d.dispatch(route, x.view(), y.view()), Error);  // not planned
    EXPECT_THROW(plan({0, 1, 2, 4}, 2, 4), Error);               // no such expert
    EXPECT_THROW(plan({0, 1, 2, -2}, 2, 4), Error);
    EXPECT_THROW(plan({0, 1, 2, 3}, 3, 4), Error);  // not a whole number of tokens
    EXPECT_THROW(plan({0, 1, 2, 3}, 2, 3), Error);  // no room
    EXPECT_NO_THROW(plan({0, 1, 2, 3}, 2, 4));
    EXPECT_THROW(d.dispatch(route, x.view(), y.view()), Error);  // 3 rows, not 4
    EXPECT_THROW(d.combine(route, y.view(), x.view(), Store::kAssign), Error);
    EXPECT_THROW(Dispatcher(*comm, {0, 0}, map, DispatchMode::kAuto, stream, cpu_kernels()), Error);
  });
}

TEST(DispatchErrors, RoomForTheWorstCase) {
  EXPECT_EQ(Dispatcher::max_rows(100, 2, 8), 200);
  EXPECT_EQ(Dispatcher::max_rows(100, 8, 3), 300);
  EXPECT_EQ(Dispatcher::max_rows(std::int64_t{1} << 31, 8, 8), std::int64_t{1} << 34);
  EXPECT_EQ(Dispatcher::max_rows(100, 8, 0), 0);
}

}  // namespace
}  // namespace moe
