// A fault at every single file operation of every rank, in the save and in the resumption of a model on four ranks (ep 2 x
// shard 2): afterwards the newest complete checkpoint is there, whole and unchanged.
// Not here: one process (checkpoint_test.cpp), resharding (reshard_fault_test.cpp), the tools under mpirun
// (fault_mpi_test.sh).
#include "lib/io/digest.h"
#include "lib/io/files.h"
#include "lib/io/verify.h"
#include "lib/run/mesh_load.h"
#include "lib/run/mesh_save.h"
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

using Body = std::function<void(World&, Model&)>;

// A job of ranks that hold a model, under a fault plan (fault_job.h).
int job(const std::string& fault, const Body& body) {
  return fault_job(fault, [&](World& world) {
    MeshOptions options;
    options.shape = {.replicate = 1, .shard = 2, .ep = 2};
    MeshContext mesh(world, options, small_config().num_experts, cpu_kernels());
    Model model(small_config(), DType::kF32, true, mesh);
    body(world, model);
  });
}

Body save_of(const std::string& run, std::int64_t step) {
  return [=](World&, Model& model) {
    model.initialize(static_cast<std::uint64_t>(step));
    save_on_mesh(model, run,
                 {.step = step, .state = {{"step", step}}, .provenance = nlohmann::json::array(), .keep = {2, 0}});
  };
}

Body resume_of(const std::string& run) {
  return [=](World& world, Model& model) {
    CheckpointInfo info;
    world.agree([&] { info = open_checkpoint(run); });
    load_on_mesh(model, manifest_on_mesh(model.mesh().world(), info.path), info.path);
  };
}

// Of the elements as they load, tensor by tensor.
std::string recomputed_digest(const CheckpointInfo& info) {
  Manifest m = read_manifest(info.path);
  std::vector<Values> values(info.tensors.size());
  std::vector<TensorSlice> slices;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const auto& t = info.tensors[i];
    values[i].resize(static_cast<std::size_t>(elements_of(t.shape)));
    slices.push_back(whole(t.name, values[i], t.shape, t.role));
  }
  load_checkpoint(info, slices);
  for (std::size_t i = 0; i < values.size(); ++i) {
    ElementSum sum(m.tensors[i].identity());
    sum.add(0, values[i]);
    m.tensors[i].digest = sum.value().hex();
  }
  return m.digest_of_tensors();
}

class FaultLoop : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    ASSERT_EQ(job("", save_of(run_, 1)), 0);
    step2digest_[1] = open_checkpoint(run_).digest;
    fs::copy(run_, dir_ + "/before", fs::copy_options::recursive);
    ASSERT_EQ(job("", save_of(run_, 2)), 0);
    step2digest_[2] = open_checkpoint(run_).digest;
    ASSERT_NE(step2digest_[1], step2digest_[2]);
  }

  void fresh_run() {
    fs::remove_all(run_);
    fs::copy(dir_ + "/before", run_, fs::copy_options::recursive);
  }

  // The newest complete checkpoint is one of the two that may be there, and all of it is as it was saved.
  void check_newest(int code) {
    const CheckpointInfo info = open_checkpoint(run_);
    EXPECT_TRUE(info.step == 1 || info.step == 2);
    EXPECT_EQ(info.digest, step2digest_[info.step]);
    verify_slices(read_manifest(info.path), info.path);
    EXPECT_EQ(recomputed_digest(info), info.digest);
    EXPECT_TRUE(has_checkpoint(run_));
    if (code == -SIGKILL) return;
    for (const std::string& name : names_in(run_)) EXPECT_FALSE(name.starts_with(".tmp-step")) << name;
  }

  // Strikes rank `rank` at operation 1, 2, ... until a job passes without a fault; their number.
  int strike_rank(int rank, const std::string& error, const std::function<Body(const std::string&)>& body, bool saves) {
    return strike_operations(dir_ + "/log", error, rank, 31, [&](const std::string& fault) {
      fresh_run();
      const int code = job(fault, body(run_));
      check_newest(code);
      if (code == 0 && saves) {
        EXPECT_EQ(open_checkpoint(run_).step, 2);
      }
      return code;
    });
  }

  void strike_all(const std::string& error, const std::function<Body(const std::string&)>& body, bool saves, int at_least) {
    int operations = 0;
    for (int rank = 0; rank < kFaultRanks && !HasFailure(); ++rank) operations += strike_rank(rank, error, body, saves);
    std::printf("%d operations\n", operations);
    EXPECT_GT(operations, at_least) << "the faults did not strike";
  }
  void strike_save(const std::string& error, int at_least = 100) {
    strike_all(
        error, [](const std::string& run) { return save_of(run, 2); }, true, at_least);
  }
  void strike_resume(const std::string& error) { strike_all(error, resume_of, false, 50); }

  std::map<std::int64_t, std::string> step2digest_;
};

TEST_F(FaultLoop, SaveOnAFullDisk) { strike_save("ENOSPC"); }
TEST_F(FaultLoop, SaveOnABrokenDisk) { strike_save("EIO"); }
TEST_F(FaultLoop, SaveWithShortWrites) { strike_save("short,op=write", 20); }
TEST_F(FaultLoop, SaveKilled) { strike_save("kill"); }
TEST_F(FaultLoop, ResumeFromABrokenDisk) { strike_resume("EIO"); }
TEST_F(FaultLoop, ResumeFromAStaleMount) { strike_resume("ESTALE"); }
TEST_F(FaultLoop, ResumeKilled) { strike_resume("kill"); }

// HDF5 must not keep anything of a file that could not be finished: the next save is in the same process.
TEST_F(FaultLoop, ASaveThatFailedLeavesTheProcessWhole) {
  Values v = random_bits(200, 1);
  const std::vector<TensorSlice> slices = {whole("a", v, {50, 4}), whole("b", v, {200}, "m")};
  int failures = 0;
  for (int n = 1; n < 400; ++n) {
    ::setenv("MOE_FAULT", ("err=ENOSPC,n=" + std::to_string(n)).c_str(), 1);
    std::string message;
    failures += code_of([&] { save_checkpoint(dir_ + "/whole", n, {}, {}, slices, {}, false); }, message) != Exit::kOk;
    ::unsetenv("MOE_FAULT");
    ASSERT_NO_THROW(save_checkpoint(dir_ + "/whole", n, {}, {}, slices, {}, false)) << "after operation " << n;
    ASSERT_EQ(open_checkpoint(dir_ + "/whole").step, n);
    if (n > failures + 40) break;
  }
  EXPECT_GT(failures, 40);
}

}  // namespace
}  // namespace moe
