// A fault at every single file operation of every rank while a checkpoint is resharded on four ranks, from files of ep 2 x
// shard 2 into those of ep 4: afterwards the input is what it was and loads, and the output is absent or whole.
// Not here: saves and resumptions (fault_loop_test.cpp), the tool under mpirun (fault_mpi_test.sh).
#include "lib/io/verify.h"
#include "lib/run/mesh_save.h"
#include "lib/run/reshard_layout.h"
#include "tests/checkpoint_case.h"
#include "tests/fault_job.h"

namespace moe {
namespace {

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 13, c.num_layers = 1, c.d_model = 6, c.num_heads = 1, c.num_kv_heads = 1, c.head_dim = 2;
  c.num_experts = 5, c.expert_ffn = 3, c.router_score = Score::kSigmoid, c.router_bias = true;
  return c;
}

void save_input(World& world, const std::string& run) {
  MeshOptions options;
  options.shape = {.replicate = 1, .shard = 2, .ep = 2};
  MeshContext mesh(world, options, small_config().num_experts, cpu_kernels());
  Model model(small_config(), DType::kF32, true, mesh);
  model.initialize(1);
  save_on_mesh(model, run, {.step = 1, .state = {{"step", 1}}, .provenance = nlohmann::json::array(), .keep = {2, 0}});
}

class ReshardFault : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    ASSERT_EQ(fault_job("", [&](World& world) { save_input(world, run_); }), 0);
    digest_ = open_checkpoint(run_).digest;
  }

  // Names, sizes and bytes of all files, and every slice.
  void check_whole(const std::string& run) {
    const CheckpointInfo info = open_checkpoint(run);
    EXPECT_EQ(info.digest, digest_) << run;
    const Manifest manifest = read_manifest(info.path);
    verify_files(manifest, info.path);
    verify_slices(manifest, info.path);
  }

  int reshard_under(const std::string& fault) {
    const std::string out = dir_ + "/out";
    fs::remove_all(out);
    const int code = fault_job(fault, [&](World& world) {
      CommonOptions common;
      common.threads = 1;
      const Options none("test", "", {});
      reshard_seconds({.input = run_, .output = out, .ep = 4, .shard = 1, .memory_bytes = 1 << 20}, common, {none, {}},
                      world);
    });
    check_whole(run_);
    const bool is_there = fs::exists(out) && has_checkpoint(out);
    if (is_there) check_whole(out);
    EXPECT_TRUE(is_there || code != 0) << "no output";
    if (code != -SIGKILL && fs::exists(out)) {
      for (const std::string& name : names_in(out)) EXPECT_FALSE(name.starts_with(".tmp-step")) << name;
    }
    return code;
  }

  void strike(const std::string& error, int at_least) {
    int operations = 0;
    for (int rank = 0; rank < kFaultRanks && !HasFailure(); ++rank)
      operations +=
          strike_operations(dir_ + "/log", error, rank, 127, [&](const auto& fault) { return reshard_under(fault); });
    std::printf("%d operations\n", operations);
    EXPECT_GT(operations, at_least) << "the faults did not strike";
  }

  std::string digest_;
};

TEST_F(ReshardFault, OnAFullDisk) { strike("ENOSPC", 100); }
TEST_F(ReshardFault, OnABrokenDisk) { strike("EIO", 100); }
TEST_F(ReshardFault, WithShortWrites) { strike("short,op=write", 10); }
TEST_F(ReshardFault, Killed) { strike("kill", 100); }

}  // namespace
}  // namespace moe
