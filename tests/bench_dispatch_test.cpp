// moe-bench dispatch without time: workloads are what their names say, bytes against a count by sets, and the check of rows
// sees what is wrong.
#include "lib/run/bench_dispatch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "lib/base/error.h"
#include "lib/comm/mesh.h"
#include "lib/comm/self_comm.h"
#include "lib/run/bench_dispatch_check.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

WorkloadShape shape_of(int num_ranks, int num_experts, int top_k, int ranks_per_node, int max_nodes = 0,
                       std::int64_t tokens = 101) {
  return {.num_tokens = tokens,
          .top_k = top_k,
          .max_nodes = max_nodes,
          .seed = 5,
          .group = 0,
          .map = linear_expert_map(num_experts, num_ranks),
          .rank2node = declared_nodes(num_ranks, ranks_per_node)};
}

std::vector<std::int64_t> rows_by_expert(const WorkloadSource& source, int num_experts, int repetition) {
  std::vector<std::int64_t> rows(static_cast<std::size_t>(num_experts));
  for (int r = 0; r < source.num_ranks(); ++r)
    for (const int e : source.route(r, repetition)) ++rows[static_cast<std::size_t>(e)];
  return rows;
}

TEST(Workload, TokensHaveDifferentExpertsOnFewNodes) {
  for (int w = 0; w < kNumWorkloads; ++w)
    for (const int num_ranks : {1, 2, 7})
      for (const int max_nodes : {0, 1, 2}) {
        const int K = 3, E = 23;
        const WorkloadShape shape = shape_of(num_ranks, E, K, 1, max_nodes);
        const WorkloadSource source(static_cast<Workload>(w), shape);
        for (int r = 0; r < num_ranks; ++r)
          for (const int repetition : {0, 1, 5}) {
            const auto idx_N = source.route(r, repetition);
            ASSERT_EQ(idx_N.size(), static_cast<std::size_t>(source.num_tokens(r) * K));
            EXPECT_EQ(idx_N, source.route(r, repetition + source.period()));
            for (std::size_t i = 0; i < idx_N.size(); i += K) {
              std::set<int> experts, nodes;
              for (std::size_t k = i; k < i + K; ++k) {
                experts.insert(idx_N[k]);
                nodes.insert(
                    shape.rank2node[static_cast<std::size_t>(shape.map.expert2rank.at(static_cast<std::size_t>(idx_N[k])))]);
              }
              ASSERT_EQ(experts.size(), static_cast<std::size_t>(K));
              if (max_nodes > 0) {
                ASSERT_LE(nodes.size(), static_cast<std::size_t>(max_nodes));
              }
            }
          }
      }
}

// Whole decks: every expert exactly as often as every other, and no two ranks begin alike.
TEST(Workload, BalancedIsBalanced) {
  const WorkloadSource source(Workload::kBalanced, shape_of(4, 16, 4, 2, 0, 64));
  EXPECT_THAT(rows_by_expert(source, 16, 0), ::testing::Each(64));
  EXPECT_NE(source.route(0, 0), source.route(1, 0));
}

TEST(Workload, LoadsAreWhatTheirNamesSay) {
  const int n = 4, E = 16;
  const auto share_of_rank = [&](const WorkloadSource& s, int repetition, int rank) {
    const auto rows = rows_by_expert(s, E, repetition);
    const auto begin = rows.begin() + rank * 4;
    return static_cast<double>(std::accumulate(begin, begin + 4, std::int64_t{0})) /
           static_cast<double>(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}));
  };
  const WorkloadSource hot(Workload::kHotRank, shape_of(n, E, 2, 2)),
      moving(Workload::kRotatingHotspot, shape_of(n, E, 2, 2)), burst(Workload::kBurst, shape_of(n, E, 2, 2)),
      spread(Workload::kSpreadHot, shape_of(n, E, 2, 2));
  EXPECT_GT(share_of_rank(hot, 0, 2), 0.7);
  for (int r = 0; r < n; ++r) EXPECT_GT(share_of_rank(moving, r, r), 0.7);
  EXPECT_GT(share_of_rank(burst, 4, 2), 0.7);
  EXPECT_LT(share_of_rank(burst, 5, 2), 0.35);
  EXPECT_NEAR(share_of_rank(spread, 0, 2), 0.25, 0.05);
  EXPECT_GT(rows_by_expert(spread, E, 0)[4], 4 * rows_by_expert(spread, E, 0)[5]);
  const auto set = rows_by_expert(WorkloadSource(Workload::kHotExperts, shape_of(n, E, 2, 2)), E, 0);
  EXPECT_GT(set[5] + set[6], std::accumulate(set.begin(), set.end(), std::int64_t{0}) / 2);
  EXPECT_EQ(WorkloadSource(Workload::kEmptyRank, shape_of(n, E, 2, 2)).num_tokens(n - 1), 0);
  const WorkloadSource ragged(Workload::kRagged, shape_of(n, E, 2, 2));
  EXPECT_LT(ragged.num_tokens(0), ragged.num_tokens(3));
}

TEST(Workload, MoreRanksThanExpertsAndTooFewNodes) {
  EXPECT_NO_THROW(WorkloadSource(Workload::kRotatingHotspot, shape_of(7, 3, 2, 2)).route(6, 6));
  EXPECT_THROW(WorkloadSource(Workload::kBalanced, shape_of(4, 4, 3, 2, 1)), Error);
  EXPECT_THROW(WorkloadSource(Workload::kBalanced, shape_of(1, 4, 5, 1)), Error);
}

TEST(Workload, NodeTrafficIsThatOfSets) {
  const WorkloadShape s = shape_of(7, 23, 3, 3);
  const WorkloadSource source(Workload::kBalanced, s);
  for (const DispatchMode mode : {DispatchMode::kFlat, DispatchMode::kTwoLevel}) {
    NodeTraffic traffic(3);
    std::int64_t least = 0, flat = 0;
    for (int r = 0; r < 7; ++r) {
      const auto idx_N = source.route(r, 0);
      add_node_traffic(idx_N, 3, s.rank2node[static_cast<std::size_t>(r)], s.map, s.rank2node, mode, traffic);
      for (std::size_t i = 0; i < idx_N.size(); i += 3) {
        std::set<int> nodes, ranks;
        for (std::size_t k = i; k < i + 3; ++k) {
          const int rank = s.map.expert2rank[static_cast<std::size_t>(idx_N[k])];
          if (rank / 3 == r / 3) continue;
          nodes.insert(rank / 3);
          ranks.insert(rank);
        }
        least += static_cast<std::int64_t>(nodes.size());
        flat += static_cast<std::int64_t>(ranks.size());
      }
    }
    EXPECT_EQ(traffic.least, least);
    EXPECT_EQ(traffic.rows(), mode == DispatchMode::kFlat ? flat : least);
    EXPECT_LT(least, flat);
    EXPECT_GE(3 * traffic.busiest(), traffic.rows());
  }
}

TEST(RowCode, TellsRowsApartInEveryDtype) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const RowCode code(dtype, 8, 17, 5000);
    std::vector<std::byte> bytes(17 * 4);
    const Mat m{bytes.data(), dtype, 1, 17, 17};
    for (const std::int64_t id : {0, 1, 7, 255, 4999}) {
      code.write(m, id, std::vector<std::int32_t>{1});
      EXPECT_EQ(code.id_of(m, 0), id);
      code.write(m, id, std::vector<std::int32_t>{8});
      EXPECT_TRUE(code.holds(m, 0, id, 8));
      EXPECT_FALSE(code.holds(m, 0, id, 7));
      EXPECT_FALSE(code.holds(m, 0, id + 1, 8));
    }
  }
  EXPECT_THROW(RowCode(DType::kBF16, 16, 3, 5000), Error);
  EXPECT_THROW(RowCode(DType::kBF16, 300, 64, 5), Error);
}

// One rank that sends to itself; then rows, sums and gates are spoiled one by one.
TEST(Oracle, SeesWhatIsWrong) {
  const int K = 3, D = 40;
  const WorkloadShape shape = shape_of(1, 5, K, 1);
  const WorkloadSource source(Workload::kHotExperts, shape);
  DispatchOracle oracle(source, shape.map, K, 0);
  oracle.set_repetition(0);
  const RowCode code(DType::kF32, 2 * K, D, source.most_tokens());
  Stream stream(1);
  const auto comm = make_self_comm("h");
  Dispatcher dispatcher(*comm, shape.rank2node, shape.map, DispatchMode::kAuto, stream, cpu_kernels());
  const std::int64_t T = oracle.num_tokens(), R = T * K;
  std::vector<float> x(static_cast<std::size_t>(T * D)), y(static_cast<std::size_t>(R * D)),
      gates(static_cast<std::size_t>(R)), sums(x.size()), dgates(gates.size());
  code.write(mat(x.data(), T, D), 0, std::vector<std::int32_t>(static_cast<std::size_t>(T), 1));
  Route route;
  dispatcher.plan(oracle.idx_N(), oracle.gate_N(), K, route, gates);
  dispatcher.dispatch(route, mat(std::as_const(x).data(), T, D), mat(y.data(), R, D));
  dispatcher.combine(route, mat(std::as_const(y).data(), R, D), mat(sums.data(), T, D), Store::kAssign);
  dispatcher.return_gates(route, gates, dgates);
  const std::vector<std::int32_t> factors(static_cast<std::size_t>(T), K);
  const auto wrong_rows = [&] { return oracle.wrong_rows(code, route, mat(std::as_const(y).data(), R, D), gates); };
  const auto wrong_sums = [&] { return oracle.wrong_sums(code, mat(std::as_const(sums).data(), T, D), factors); };
  EXPECT_EQ(oracle.num_rows(), R);
  EXPECT_EQ(wrong_rows(), 0);
  EXPECT_EQ(wrong_sums(), 0);
  EXPECT_EQ(oracle.wrong_gates(dgates, 1), 0);

  std::swap(dgates[4], dgates[5]);
  dgates[4] += 1;
  EXPECT_GT(oracle.wrong_gates(dgates, 1), 0);
  sums[static_cast<std::size_t>(3 * D + 39)] = std::nanf("");
  EXPECT_EQ(wrong_sums(), 1);
  gates[7] = 3 - gates[7];
  EXPECT_EQ(wrong_rows(), 1);
  y[static_cast<std::size_t>(9 * D + 39)] += 1;
  EXPECT_EQ(wrong_rows(), 2);
  std::copy_n(&y[20 * D], D, &y[21 * D]);  // one twice, one missing
  EXPECT_EQ(wrong_rows(), 3);
}

DispatchRow row_with(std::int64_t num_wrong, double inter) {
  DispatchRow r{.name = "W2", .description = "hot rank", .mode = DispatchMode::kTwoLevel};
  for (Timing& t : r.seconds) t = timing_of({1e-3});
  r.inter_bytes = r.inter_bytes_min = inter, r.inter_bytes_expected = r.least_bytes_expected = 8e6;
  r.intra_bytes = 2e6, r.busiest_node_bytes = 2e6, r.num_wrong = num_wrong, r.rows_r = {1, 3};
  return r;
}

TEST(DispatchRow, RatesOfBothDirections) {
  const DispatchRow r = row_with(0, 8e6);
  EXPECT_DOUBLE_EQ(r.rank_gbytes(), 2.5);  // 10e6 / 2 ranks / 2 ms
  EXPECT_DOUBLE_EQ(r.node_gbytes(), 2);    // 2 x 2e6 / 2 ms
  EXPECT_DOUBLE_EQ(r.imbalance(), 1.5);
  EXPECT_DOUBLE_EQ(dispatch_json(r, 32).at("percent_of_link").get<double>(), 50);
  EXPECT_EQ(dispatch_json(r, 0).at("inter_node_bytes").get<std::int64_t>(), 8000000);
  EXPECT_EQ(dispatch_json(r, 0).at("inter_node_bytes_min").get<std::int64_t>(), 8000000);
  EXPECT_THAT(dispatch_line(r, 0), HasSubstr(" ok"));
}

TEST(DispatchRow, NoFigureWithoutItsCheck) {
  for (const DispatchRow& r : {row_with(1, 8e6), row_with(0, 8e6 + 4)}) {
    EXPECT_FALSE(r.passed());
    EXPECT_THAT(dispatch_line(r, 10), HasSubstr("FAILED"));
    EXPECT_FALSE(dispatch_json(r, 10).contains("dispatch_us"));
    EXPECT_FALSE(dispatch_json(r, 10).contains("percent_of_link"));
    EXPECT_FALSE(dispatch_json(r, 10).at("passed").get<bool>());
  }
}

}  // namespace
}  // namespace moe
