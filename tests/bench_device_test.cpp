// moe-bench dispatch, collectives and step on ranks whose rows and models are in memory of a device, by each way between
// devices: all checks pass, bytes and losses are those of ranks of the CPU, and what a device does not tell is null. The
// devices are GPUs where MOE_TEST_KERNELS=cuda says so, else CPUs. NCCL only in its stand-in, since the ranks share a
// device. No figure of time is judged. Not here: what must arrive (bench_dispatch_test.cpp, bench_replay_test.cpp), the tool
// (cuda_bench_test.sh).
#include "lib/run/bench_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>

#include "lib/comm/thread_comm.h"
#include "lib/run/bench.h"
#include "tests/kernel_device.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;

Compute of_cpu() { return {cpu_device(), cpu_kernels()}; }
Compute under_test() { return {kernel_device(), device_kernels()}; }

BenchOptions options_of(BenchCommand command) {
  BenchOptions o;
  o.command = command;
  o.seconds = 1e-6;
  o.common.threads = 1;
  return o;
}

// What the command says of ranks of which two and two are a node.
json run(BenchOptions o, int num_ranks, const Compute& compute, GpuComm way) {
  o.common.json = ::testing::TempDir() + "/bench_device_" + std::to_string(getpid()) + ".json";
  run_thread_ranks(num_ranks, [&](std::unique_ptr<Comm> comm) {
    omp_set_num_threads(1);
    World world(std::move(comm), declared_nodes(num_ranks, 2));
    const Exit exit = o.command == BenchCommand::kDispatch      ? bench_dispatch(o, world, compute, way, json::array())
                      : o.command == BenchCommand::kCollectives ? bench_collectives(o, world, compute, way)
                                                                : bench_mesh_step(o, world, compute, way);
    EXPECT_EQ(exit, Exit::kOk);
  });
  json result = json::parse(std::ifstream(o.common.json));
  std::filesystem::remove(o.common.json);
  return result;
}

double found(const json& result, const std::string& check) {
  for (const json& c : result["checks"])
    if (c["name"] == check) return c["found"];
  ADD_FAILURE() << "no check of the name " << check;
  return 0;
}

void expect_machine(const json& result, GpuComm way) {
  const json& machine = result["machine"];
  if (!tests_cuda()) {
    EXPECT_FALSE(machine.contains("gpu_comm")) << machine;
    return;
  }
  EXPECT_EQ(machine["device"], kernel_device().name);
  EXPECT_EQ(machine["gpu_comm"], way == GpuComm::kNccl ? "nccl" : "staged");
}

class BenchDevice : public ::testing::TestWithParam<GpuComm> {
 protected:
  void SetUp() override {
    if (GetParam() != GpuComm::kStaged && !tests_cuda()) GTEST_SKIP() << "ranks of the CPU know no other way";
    if (GetParam() == GpuComm::kNccl && !on_host()) GTEST_SKIP() << "NCCL wants a GPU for each rank";
  }
  GpuComm way() const { return tests_cuda() ? GetParam() : GpuComm::kAuto; }
};
INSTANTIATE_TEST_SUITE_P(, BenchDevice, ::testing::Values(GpuComm::kNccl, GpuComm::kStaged),
                         [](const auto& info) { return info.param == GpuComm::kNccl ? "Nccl" : "Staged"; });

// W5 has a rank without tokens, W6 repetitions that differ.
TEST_P(BenchDevice, DispatchSendsWhatTheCpuSends) {
  for (const auto& [workload, dtype] :
       {std::pair(WorkloadChoice::kW5, DType::kF32), std::pair(WorkloadChoice::kW6, DType::kBF16)}) {
    BenchOptions o = options_of(BenchCommand::kDispatch);
    o.workload = workload;
    o.dtype = dtype;
    o.tokens = 19;
    o.model.d_model = 24;
    o.model.num_experts = 7;
    o.model.top_k = 3;
    const json ours = run(o, 4, under_test(), way()), theirs = run(o, 4, of_cpu(), GpuComm::kAuto);
    expect_machine(ours, GetParam());
    ASSERT_EQ(ours["rows"].size(), 2u) << "flat and two-level";
    ASSERT_EQ(theirs["rows"].size(), 2u);
    for (std::size_t i = 0; i < 2; ++i) {
      const json &mine = ours["rows"][i], &other = theirs["rows"][i];
      EXPECT_TRUE(mine["passed"]) << mine;
      for (const char* key : {"dispatch", "inter_node_bytes", "intra_node_bytes", "control_bytes", "rows_received"})
        EXPECT_EQ(mine[key], other[key]) << key;
      EXPECT_GT(mine["dispatch_us"]["median"], 0);
    }
  }
}

TEST_P(BenchDevice, CollectivesGiveWhatTheySay) {
  for (const int num_ranks : {1, 3}) {
    BenchOptions o = options_of(BenchCommand::kCollectives);
    o.min_bytes = 4;
    o.max_bytes = 20000;
    const json result = run(o, num_ranks, under_test(), way());
    expect_machine(result, GetParam());
    std::set<std::string> on_device, on_hosts;
    for (const json& row : result["rows"]) {
      EXPECT_TRUE(row["passed"]) << row;
      if (tests_cuda()) (row["memory"] == "device" ? on_device : on_hosts).insert(row["name"]);
    }
    EXPECT_EQ(result["rows"].size(), 2u + 5 * 7);
    if (!tests_cuda()) continue;
    EXPECT_THAT(on_hosts, ElementsAre("all_reduce_one", "barrier"));
    EXPECT_THAT(on_device, ElementsAre("all_reduce_sum", "broadcast", "exchange", "gather", "reduce_scatter"));
  }
}

TEST_P(BenchDevice, StepTrainsAsTheCpuDoesAndSaysWhatItKnows) {
  BenchOptions o = options_of(BenchCommand::kStep);
  o.model.vocab_size = 64, o.model.num_layers = 2, o.model.d_model = 32;
  o.model.num_heads = 2, o.model.num_kv_heads = 1, o.model.head_dim = 16;
  o.model.num_experts = 4, o.model.top_k = 2, o.model.expert_ffn = 16;
  o.seq = 8, o.batch = 3;
  o.ranks.ep = 2;
  o.ranks.zero = GetParam() == GpuComm::kNccl ? 3 : 1;
  const json ours = run(o, 2, under_test(), way()), theirs = run(o, 2, of_cpu(), GpuComm::kAuto);
  expect_machine(ours, GetParam());
  for (const char* check : {"first_loss_near_ln_vocab", "largest_loss_is_finite", "largest_gradient_norm_is_finite"})
    EXPECT_NEAR(found(ours, check), found(theirs, check), 1e-3) << check;
  EXPECT_GT(ours["step_us"]["median"], 0);
  EXPECT_GT(ours["gemm_peak_gflops"], 0);
  EXPECT_GT(ours["compute_ms"]["update"]["max"], 0);
  for (const char* key : {"memory_measured_bytes", "memory_measured_bytes_by_rank"})
    EXPECT_EQ(ours[key].is_null(), tests_cuda()) << key;
  EXPECT_GT(ours["communication"]["dispatch"]["busy_ms"]["mean"], 0) << ours["communication"];
  // What a rank stood waiting for is told in all and by name; the rest of its step it computed.
  double exposed_ms = 0;
  for (const auto& [name, lane] : ours["communication"].items()) exposed_ms += lane["exposed_ms"]["mean"].get<double>();
  EXPECT_NEAR(exposed_ms, 1e3 * ours["exposed_seconds"].get<double>(), 1e-3);
  EXPECT_GT(ours["compute_only_seconds"], ours["compute_ms"]["update"]["max"].get<double>() * 1e-3);
  EXPECT_LE(ours["compute_only_seconds"], ours["step_seconds"]);
  EXPECT_EQ(ours["compute_ms"]["experts"].is_null(), tests_cuda());
  if (!tests_cuda()) return;
  EXPECT_GT(ours["device_grown_bytes"], 0.5 * ours["memory_predicted_bytes"].get<double>());
  EXPECT_GE(ours["device_bytes"], ours["device_grown_bytes"]);
  EXPECT_EQ(ours["device_bytes_by_rank"].size(), 2u);
}

// Image to device, on the device from one room to another, and back; rooms grow between.
TEST(ImagedRoom, HoldsWhatWasPushed) {
  Stream stream(kernel_device(), 1);
  ImagedRoom from(stream), to(stream);
  for (const std::size_t bytes : {std::size_t{0}, std::size_t{5}, std::size_t{70000}, std::size_t{64}}) {
    const auto byte = [bytes](std::size_t i) { return static_cast<unsigned char>(i * 7 + bytes); };
    auto* image = static_cast<unsigned char*>(from.image(bytes));
    for (std::size_t i = 0; i < bytes; ++i) image[i] = byte(i);
    from.push(bytes);
    stream.copy(to.data(bytes), from.data(bytes), bytes);
    to.pull(bytes);
    const auto* got = static_cast<const unsigned char*>(to.image(bytes));
    for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(got[i], byte(i)) << i << " of " << bytes;
  }
}

}  // namespace
}  // namespace moe
