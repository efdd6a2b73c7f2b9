// moe-bench dispatch on recorded decisions and with a plan, on thread ranks of several nodes: its bytes and rows against a
// count by sets that knows nothing of the exchange; tokens are cut as training cuts them; what does not fit is refused. No
// figure of time is judged.
#include "lib/run/bench_replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>

#include "lib/base/error.h"
#include "lib/comm/thread_comm.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
constexpr int kExperts = 13, kTopK = 3, kSeq = 4, kBatch = 9, kTokens = kSeq * kBatch, kSteps = 3, kCols = 24;
const std::vector<int> kLayers = {1, 3};

class BenchReplay : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-replay-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
    RouterTraceWriter writer(dir_ + "/trace.h5", {kLayers, kExperts, kTopK}, kTokens, 0, false, kSeq);
    for (int s = 0; s < kSteps; ++s) writer.add_step(s, random_step());
    writer.finish(nullptr);
    trace_ = read_router_trace(dir_ + "/trace.h5");
  }
  void TearDown() override { fs::remove_all(dir_); }

  // Experts of low numbers are chosen more often; now and then one is dropped, or all of a token.
  std::vector<std::int16_t> random_step() {
    std::vector<std::int16_t> idx;
    for (std::size_t t = 0; t < kLayers.size() * kTokens; ++t) {
      std::set<int> chosen;
      while (chosen.size() < kTopK) chosen.insert(static_cast<int>(std::min(next() % kExperts, next() % kExperts)));
      const bool none = next() % 16 == 0;
      for (const int e : chosen) idx.push_back(static_cast<std::int16_t>(none || next() % 8 == 0 ? -1 : e));
    }
    return idx;
  }
  std::uint64_t next() {
    state_ ^= state_ << 13, state_ ^= state_ >> 7, state_ ^= state_ << 17;
    return state_;
  }
  // Experts anywhere, another order in each layer; ranks may have none.
  PlanFile random_plan(int num_ranks) {
    PlanFile plan;
    plan.placement = {kExperts, kLayers, {}};
    for (std::size_t l = 0; l < kLayers.size(); ++l) {
      LayerPlacement placed;
      placed.rank2experts.resize(static_cast<std::size_t>(num_ranks));
      std::vector<int> order(kExperts);
      std::iota(order.begin(), order.end(), 0);
      for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[next() % i]);
      for (const int e : order) placed.rank2experts[next() % static_cast<std::uint64_t>(num_ranks)].push_back(e);
      plan.placement.placed.push_back(placed);
      plan.pinned_LS.emplace_back(kExperts, std::uint8_t{0});
    }
    plan.rank2node.assign(static_cast<std::size_t>(num_ranks), 0);
    plan.provenance = nlohmann::json::array();
    return plan;
  }
  BenchOptions options() const {
    BenchOptions o;
    o.command = BenchCommand::kDispatch;
    o.replay = dir_ + "/trace.h5";
    o.seconds = 1e-6;
    o.model.d_model = kCols;
    o.common.json = dir_ + "/rows.json";
    return o;
  }
  // The same with up to two more copies of each expert, never two on a rank.
  PlanFile random_copies(int num_ranks) {
    PlanFile plan = random_plan(num_ranks);
    for (std::size_t l = 0; l < kLayers.size(); ++l) {
      for (int i = 0; i < 2 * kExperts; ++i) {
        std::vector<int>& experts = plan.placement.placed[l].rank2experts[next() % static_cast<std::uint64_t>(num_ranks)];
        if (std::count(experts.begin(), experts.end(), i / 2) == 0) experts.push_back(i / 2);
      }
      plan.pinned_LS[l].resize(static_cast<std::size_t>(plan.placement.placed[l].num_slots()));
    }
    return plan;
  }
  // On ranks of which two and two are a node.
  nlohmann::json run(const BenchOptions& o, int num_ranks) {
    fs::remove(o.common.json);
    run_thread_ranks(num_ranks, [&](std::unique_ptr<Comm> comm) {
      World world(std::move(comm), declared_nodes(num_ranks, 2));
      EXPECT_EQ(bench_dispatch(o, world, {cpu_device(), cpu_kernels()}, GpuComm::kAuto, nlohmann::json::array()), Exit::kOk);
    });
    return nlohmann::json::parse(std::ifstream(o.common.json));
  }

  std::string dir_;
  RouterTrace trace_;
  std::uint64_t state_ = 88172645463325252u;
};

struct Count {
  std::int64_t flat = 0, least = 0;
  std::vector<double> rows_r;
};

// The rank, of a group whose nodes are of two ranks from `first` on, that a token takes: of all that hold the expert, or of
// the nearest, the (rank + token)-th.
int holder_of(int e, const std::vector<std::vector<int>>& rank2experts, int rank, int token, int first,
              ReplicaChoice choice) {
  std::vector<int> all, in_node;
  for (int r = 0; r < static_cast<int>(rank2experts.size()); ++r) {
    const auto& experts = rank2experts[static_cast<std::size_t>(r)];
    if (std::count(experts.begin(), experts.end(), e) == 0) continue;
    all.push_back(r);
    if (choice == ReplicaChoice::kNearest && r == rank) return r;
    if (choice == ReplicaChoice::kNearest && (first + r) / 2 == (first + rank) / 2) in_node.push_back(r);
  }
  const std::vector<int>& may = in_node.empty() ? all : in_node;
  return may[static_cast<std::size_t>(rank + token) % may.size()];
}

// By sets of ranks and nodes, over all steps.
Count count_of(const RouterTrace& trace, std::size_t layer, const std::vector<std::vector<int>>& rank2experts, int ep,
               int num_ranks, ReplicaChoice choice) {
  Count c;
  c.rows_r.resize(static_cast<std::size_t>(num_ranks));
  for (std::size_t s = 0; s < kSteps; ++s)
    for (int t = 0; t < kTokens; ++t) {
      int source = 0;
      while (t / kSeq >= kBatch * (source + 1) / num_ranks) ++source;
      std::set<int> ranks, nodes;
      for (int k = 0; k < kTopK; ++k) {
        const int e = trace.of(s, layer)[static_cast<std::size_t>(t * kTopK + k)];
        if (e < 0) continue;
        const int group = source / ep * ep, token = t - kBatch * source / num_ranks * kSeq;
        const int to = group + holder_of(e, rank2experts, source - group, token, group, choice);
        c.rows_r[static_cast<std::size_t>(to)] += 1.0 / kSteps;
        if (to / 2 != source / 2) ranks.insert(to), nodes.insert(to / 2);
      }
      c.flat += static_cast<std::int64_t>(ranks.size());
      c.least += static_cast<std::int64_t>(nodes.size());
    }
  return c;
}

void expect_counts(const nlohmann::json& json, const RouterTrace& trace, const Placement& placement, int num_ranks,
                   ReplicaChoice choice = ReplicaChoice::kSpread) {
  const int ep = json.at("ep");
  double rows_per_token = 0;
  int num_rows = 0;
  for (const auto& row : json.at("rows")) {
    const int layer = row.at("layer");
    const auto at = static_cast<std::size_t>(std::find(kLayers.begin(), kLayers.end(), layer) - kLayers.begin());
    const Count want = count_of(trace, at, placement.placed[at].rank2experts, ep, num_ranks, choice);
    const std::int64_t rows = row.at("dispatch") == "flat" ? want.flat : want.least;
    const auto bytes = [](std::int64_t n) { return std::llround(2.0 * 4 * kCols * static_cast<double>(n) / kSteps); };
    EXPECT_EQ(row.at("inter_node_bytes").get<std::int64_t>(), bytes(rows)) << row.at("workload");
    EXPECT_EQ(row.at("inter_node_bytes_min").get<std::int64_t>(), bytes(want.least));
    const double per_token = static_cast<double>(rows) / kSteps / kTokens;
    EXPECT_NEAR(row.at("inter_node_rows_per_token").get<double>(), per_token, 1e-12);
    for (std::size_t r = 0; r < want.rows_r.size(); ++r)
      EXPECT_NEAR(row.at("rows_received").at(r).get<double>(), want.rows_r[r], 1e-9) << "rank " << r;
    if (row.at("dispatch") == "flat") rows_per_token += per_token, ++num_rows;
  }
  ASSERT_GT(num_rows, 0);
  EXPECT_NEAR(json.at("totals").at(0).at("inter_node_rows_per_token").get<double>(), rows_per_token / num_rows, 1e-12);
}

TEST_F(BenchReplay, BytesAndRowsAreThoseOfTheTrace) {
  for (const int num_ranks : {1, 2, 4, 7}) {
    SCOPED_TRACE(std::to_string(num_ranks) + " ranks");
    const nlohmann::json json = run(options(), num_ranks);
    EXPECT_EQ(json.at("rows").size(), num_ranks > 2 ? 4U : 2U);
    EXPECT_EQ(json.at("replay").at("digest"), trace_.digest);
    expect_counts(json, trace_, linear_placement(kLayers, kExperts, num_ranks), num_ranks);
  }
}

TEST_F(BenchReplay, APlanMovesTheExperts) {
  for (const int num_ranks : {4, 7}) {
    SCOPED_TRACE(std::to_string(num_ranks) + " ranks");
    BenchOptions o = options();
    o.ranks.plan = dir_ + "/plan.h5";
    const PlanFile plan = random_plan(num_ranks);
    write_plan_file(o.ranks.plan, plan, true);
    expect_counts(run(o, num_ranks), trace_, plan.placement, num_ranks);
  }
}

TEST_F(BenchReplay, RowsGoToTheCopiesThatTheRuleChooses) {
  for (const int num_ranks : {4, 7})
    for (const ReplicaChoice choice : {ReplicaChoice::kSpread, ReplicaChoice::kNearest}) {
      SCOPED_TRACE(std::to_string(num_ranks) + " ranks, choice " + std::to_string(static_cast<int>(choice)));
      BenchOptions o = options();
      o.ranks.plan = dir_ + "/plan.h5";
      o.ranks.replica_choice = choice;
      const PlanFile plan = random_copies(num_ranks);
      ASSERT_TRUE(plan.placement.has_replicas());
      write_plan_file(o.ranks.plan, plan, true);
      expect_counts(run(o, num_ranks), trace_, plan.placement, num_ranks, choice);
    }
}

TEST_F(BenchReplay, GroupsAndWorkloadsWithCopies) {
  BenchOptions o = options();
  o.ranks.plan = dir_ + "/plan.h5";
  const PlanFile plan = random_copies(3);
  write_plan_file(o.ranks.plan, plan, true);
  o.ranks.ep = 3, o.ranks.shard = 2;
  o.ranks.replica_choice = ReplicaChoice::kNearest;
  expect_counts(run(o, 6), trace_, plan.placement, 6, ReplicaChoice::kNearest);
  o.replay.clear();
  o.model.num_experts = kExperts, o.model.top_k = kTopK, o.tokens = 17;
  EXPECT_EQ(run(o, 6).at("rows").size(), 8U * 2) << "every workload, both ways of exchange";
}

TEST_F(BenchReplay, GroupsOneLayerAndWorkloadsWithAPlan) {
  BenchOptions o = options();
  o.ranks.plan = dir_ + "/plan.h5";
  const PlanFile plan = random_plan(3);
  write_plan_file(o.ranks.plan, plan, true);
  o.ranks.ep = 3, o.ranks.shard = 2, o.layer = 3;
  const nlohmann::json json = run(o, 6);
  EXPECT_EQ(json.at("rows").at(0).at("layer"), 3);
  expect_counts(json, trace_, plan.placement, 6);
  o.replay.clear();
  o.model.num_experts = kExperts, o.model.top_k = kTopK, o.tokens = 17;
  EXPECT_EQ(run(o, 6).at("rows").size(), 8U * 2) << "every workload, both ways of exchange";
}

template <class Action>
std::string refusal_of(Action action, Exit code = Exit::kBadInput) {
  try {
    action();
    return "nothing was refused";
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), code) << e.what();
    return e.what();
  }
}

TEST_F(BenchReplay, WhatIsRefused) {
  using ::testing::HasSubstr;
  BenchOptions o = options();
  const auto refused = [&] {
    return refusal_of([&] {
      World world;
      bench_dispatch(o, world, {cpu_device(), cpu_kernels()}, GpuComm::kAuto, nlohmann::json::array());
    });
  };
  o.layer = 2;
  EXPECT_THAT(refused(), HasSubstr("trace.h5: expected layer 2, found 2 MoE layers from 1 to 3"));
  o.layer = -1, o.ranks.plan = dir_ + "/plan.h5";
  write_plan_file(o.ranks.plan, random_plan(2), true);
  EXPECT_THAT(refused(), HasSubstr("expected a plan of 13 experts on 1 ranks (ep), found 13 on 2"));
  PlanFile one = random_plan(1);
  one.placement.layers = {1, 2};
  write_plan_file(o.ranks.plan, one, true);
  EXPECT_THAT(refused(), HasSubstr("plan.h5: expected layer 3"));
}

// What is recorded are logical experts, although slots are what is sent.
TEST_F(BenchReplay, ARecordedWorkloadKnowsNothingOfCopies) {
  BenchOptions o = options();
  o.replay.clear();
  o.model.num_experts = kExperts, o.model.top_k = kTopK, o.tokens = 17;
  o.workload = WorkloadChoice::kW0;
  o.record = dir_ + "/w0.h5";
  run(o, 4);
  const RouterTrace want = read_router_trace(o.record);
  PlanFile plan = random_copies(4);
  for (LayerPlacement& placed : plan.placement.placed) {
    placed.rank2experts = linear_layer(kExperts, 4).rank2experts;
    placed.rank2experts[3].push_back(0);
  }
  for (auto& pinned_S : plan.pinned_LS) pinned_S.assign(kExperts + 1, 0);
  o.ranks.plan = dir_ + "/plan.h5";
  write_plan_file(o.ranks.plan, plan, true);
  o.record = dir_ + "/copies.h5";
  run(o, 4);
  EXPECT_EQ(read_router_trace(o.record).idx_SLTK, want.idx_SLTK);
}

TEST_F(BenchReplay, ALimitOfNodesNeedsOneCopyOfEachExpert) {
  BenchOptions o = options();
  o.replay.clear();
  o.ranks.plan = dir_ + "/plan.h5";
  write_plan_file(o.ranks.plan, random_copies(2), true);
  o.model.num_experts = kExperts, o.model.top_k = kTopK, o.model.max_nodes_per_token = 1;
  const auto on_two_ranks = [&] {
    run_thread_ranks(2, [&](std::unique_ptr<Comm> comm) {
      World world(std::move(comm), declared_nodes(2, 1));
      bench_dispatch(o, world, {cpu_device(), cpu_kernels()}, GpuComm::kAuto, nlohmann::json::array());
    });
  };
  EXPECT_THAT(refusal_of(on_two_ranks, Exit::kUsage),
              ::testing::HasSubstr("--max-nodes-per-token: expected a plan with one"));
}

}  // namespace
}  // namespace moe
