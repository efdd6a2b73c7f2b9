// Saving while training goes on, and going on from it on other meshes, as the tool does both: the copy is what was there
// when it was made, the same bits async and sync; writers hold everything once and evenly; a resumed run is the run that
// never stopped, and on other meshes the same weights and the same losses; one reader for what a node shares; intervals,
// policies, the lock; the data order loses no sample. Not here: what the tool says (train_resume_test.sh).
#include <gmock/gmock.h>
#include <sys/wait.h>

#include <map>
#include <set>

#include "lib/io/run_dir.h"
#include "lib/io/run_lock.h"
#include "lib/run/mesh_load.h"
#include "lib/run/mesh_save.h"
#include "lib/run/save_interval.h"
#include "tests/checkpoint_case.h"
#include "tests/train_on_mesh.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
constexpr int kVocab = 37;

TrainOptions small_options() {
  TrainOptions o;
  o.common.seed = 11;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 2, c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 5, c.top_k = 2, c.expert_ffn = 7, c.init_std = 0.2f, c.rope_theta = 100;
  c.router_score = Score::kSigmoid, c.router_bias = true;
  o.balance = {.seq_aux = 0.02f, .bias_update_speed = 0.01f};
  o.batch = 7, o.seq = 9, o.lr = 4e-3f, o.weight_decay = 0.1f, o.grad_clip = 1;
  return o;
}

MeshSetting on(int replicate, int shard, int ep, int zero = 3, std::vector<int> rank2node = {}) {
  return {{.shape = {replicate, shard, ep}, .zero = zero}, std::move(rank2node)};
}

void expect_same_losses(const std::vector<double>& got, const std::vector<double>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_TRUE(std::fabs(got[i] - want[i]) <= tolerance * std::fabs(want[i]))
        << "step " << i << ": " << got[i] << " and " << want[i];
}

class TrainSavesTest : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    data_ = make_training_data("train_saves", kVocab, 3000);
  }
  void TearDown() override {
    CheckpointTest::TearDown();
    fs::remove(data_);
  }

  struct Outcome {
    std::vector<double> losses;  // of rank 0
    std::string digest_at_load;  // recomputed from what the ranks hold
  };

  // Trains from step `from` (loading the checkpoint of `load`, if any) to step `to`; saves at `save_at` into `save`.
  Outcome run(const MeshSetting& setting, int from, int to, const std::string& load, const std::string& save = "",
              int save_at = -1, SaveMode mode = SaveMode::kAsync) {
    const TrainOptions o = small_options();
    Outcome out;
    on_mesh(data_, o, setting, [&](MeshRank& rank) {
      if (!load.empty()) {
        const Manifest m = manifest_on_mesh(rank.world, load);
        load_on_mesh(rank.model, m, load);
        const FinishedSave again = save_on_mesh(rank.model, load + "-again", {.step = from, .force = true});
        rank.trainer.steps_done = rank.trainer.updates_done = from;
        rank.trainer.consumed_samples = std::int64_t{from} * o.batch;
        if (rank.world.rank() == 0) out.digest_at_load = again.digest;
      }
      std::unique_ptr<MeshSaver> saver;
      if (save_at >= 0) saver = std::make_unique<MeshSaver>(rank.model, save, mode);
      for (int s = from; s < to; ++s) {
        const StepResult step =
            rank.trainer.step(static_cast<double>(o.lr), {.busy = [&] { return saver && saver->busy(); }});
        if (rank.world.rank() == 0) out.losses.push_back(step.loss);
        if (saver && saver->in_flight() && step.num_busy == 0) saver->advance();
        if (s + 1 == save_at) saver->begin({.step = save_at, .state = {{"step", save_at}}});
      }
      if (saver) saver->wait();
    });
    return out;
  }

  std::string data_;
};

TEST_F(TrainSavesTest, AsyncWritesTheStateOfItsStepAndChangesNothing) {
  for (const MeshSetting& mesh : {on(1, 1, 1), on(2, 1, 2), on(1, 2, 2, 1)}) {
    const std::string name = run_ + mesh_text(mesh.mesh.shape);
    const Outcome calm = run(mesh, 0, 12, ""), async = run(mesh, 0, 12, "", name + "async", 5),
                  sync = run(mesh, 0, 12, "", name + "sync", 5, SaveMode::kSync);
    EXPECT_EQ(async.losses, calm.losses) << "bit for bit";
    EXPECT_EQ(sync.losses, calm.losses);
    EXPECT_EQ(open_checkpoint(name + "async").digest, open_checkpoint(name + "sync").digest);
    EXPECT_EQ(open_checkpoint(name + "async").step, 5);
  }
}

// Criterion 2 of the issue.
TEST_F(TrainSavesTest, ResumptionOnTheSameMeshHasTheSameBits) {
  for (const MeshSetting& mesh : {on(1, 1, 1), on(1, 2, 2), on(2, 2, 1, 2)}) {
    const std::string name = run_ + mesh_text(mesh.mesh.shape);
    const Outcome whole = run(mesh, 0, 16, "", name, 6);
    const Outcome rest = run(mesh, 6, 16, name + "/step-00000006");
    EXPECT_EQ(rest.losses, std::vector<double>(whole.losses.begin() + 6, whole.losses.end()));
  }
}

TEST_F(TrainSavesTest, ResumptionOnAnyOtherMeshHasTheSameWeightsAndLosses) {
  const Outcome whole = run(on(1, 2, 2), 0, 56, "", run_, 6);
  const std::string path = run_ + "/step-00000006";
  const std::vector<double> want(whole.losses.begin() + 6, whole.losses.end());
  for (const MeshSetting& mesh :
       {on(1, 1, 1), on(1, 1, 3, 3, {0, 0, 1}), on(2, 1, 2, 1), on(3, 1, 1, 2), on(2, 2, 2, 3, {0, 0, 0, 0, 1, 1, 1, 1})}) {
    SCOPED_TRACE(setting_text(mesh));
    const Outcome rest = run(mesh, 6, 56, path);
    EXPECT_EQ(rest.digest_at_load, open_checkpoint(path).digest);
    expect_same_losses(rest.losses, want, 1e-4);
  }
}

TEST_F(TrainSavesTest, WritersHoldEverythingOnceAndEvenly) {
  for (const MeshSetting& mesh : {on(1, 1, 1), on(4, 1, 1), on(2, 2, 1, 1), on(3, 1, 2, 2), on(7, 1, 1)}) {
    SCOPED_TRACE(setting_text(mesh));
    const TrainOptions o = small_options();
    std::mutex mutex;
    std::map<std::string, std::vector<Box>> boxes;
    std::map<std::string, std::vector<std::int64_t>> shapes;
    std::map<int, std::int64_t> shard2least, shard2most;
    on_mesh(data_, o, mesh, [&](MeshRank& rank) {
      std::int64_t bytes = 0;
      const std::scoped_lock lock(mutex);
      for (const TensorSlice& s : slices_to_write(rank.model)) {
        shapes[s.role + ":" + s.name] = s.shape;
        if (elements_of(s.extent) > 0) boxes[s.role + ":" + s.name].push_back({s.offset, s.extent});
        if (s.role != "bias") bytes += 4 * elements_of(s.extent);
      }
      const int shard = rank.world.rank() % (mesh.mesh.shape.shard * mesh.mesh.shape.ep);
      shard2least[shard] = std::min(shard2least.try_emplace(shard, bytes).first->second, bytes);
      shard2most[shard] = std::max(shard2most[shard], bytes);
    });
    for (const auto& [key, shape] : shapes) EXPECT_EQ(coverage_fault(shape, boxes[key]), "") << key;
    for (const auto& [shard, least] : shard2least)
      EXPECT_LE(shard2most[shard] - least, 2 * 4 * 14 * 12)
          << "two rows of dimension 0, the largest of which is an expert's";
  }
}

TEST(PlanReads, WhatSeveralWantOneReads) {
  Manifest m;
  m.tensors = {{"a", "weight", DType::kF32, {8}, "", {{0, "a0", {{0}, {4}}, ""}, {0, "a4", {{4}, {4}}, ""}}},
               {"b", "weight", DType::kF32, {6}, "", {{0, "b", {{0}, {6}}, ""}}}};
  const auto reads = plan_reads(m, {{{0, {{0}, {5}}}}, {{0, {{5}, {3}}}, {1, {{0}, {6}}}}, {{1, {{0}, {6}}}}});
  ASSERT_EQ(reads.size(), 3u) << "each slice once";
  EXPECT_EQ(reads[0].members, (std::vector<int>{0}));
  EXPECT_EQ(reads[1].members, (std::vector<int>{0, 1}));
  EXPECT_EQ(reads[1].reader, 1) << "member 0 has read already";
  EXPECT_EQ(reads[2].members, (std::vector<int>{1, 2}));
  EXPECT_EQ(reads[2].reader, 2);
}

// One rank cannot read: all say so, nobody waits.
TEST_F(TrainSavesTest, ADamagedSliceFailsOnAllRanks) {
  run(on(1, 2, 2), 0, 3, "", run_, 3, SaveMode::kSync);
  const std::string file = run_ + "/step-00000003/shard-00002.h5";
  flip_bit(file, static_cast<std::int64_t>(fs::file_size(file)) - 40);
  for (const MeshSetting& mesh : {on(1, 1, 1), on(1, 2, 2), on(2, 3, 1)}) {
    std::atomic<int> refused = 0;
    on_mesh(data_, small_options(), mesh, [&](MeshRank& rank) {
      const Manifest m = manifest_on_mesh(rank.world, run_ + "/step-00000003");
      try {
        load_on_mesh(rank.model, m, run_ + "/step-00000003");
      } catch (const Error& e) {
        refused += e.code() == Exit::kBadInput;
      }
    });
    EXPECT_EQ(refused, mesh.mesh.shape.size());
  }
}

// Scenario 17.
TEST_F(TrainSavesTest, ACheckpointThatIsRemovedWhileItIsReadIsSaidSo) {
  run(on(1, 1, 2), 0, 3, "", run_, 3, SaveMode::kSync);
  const std::string path = run_ + "/step-00000003";
  std::string message;
  on_mesh(data_, small_options(), on(1, 1, 1), [&](MeshRank& rank) {
    const Manifest m = manifest_on_mesh(rank.world, path);
    fs::rename(path, path + ".gone");
    EXPECT_EQ(code_of([&] { load_on_mesh(rank.model, m, path); }, message), Exit::kStoppedEarly);
  });
  EXPECT_THAT(message, HasSubstr("removed while reading"));
}

// Scenario 16: the thread's failure comes at the next boundary, on all ranks, and leaves nothing.
TEST_F(TrainSavesTest, AFailedWriteIsThrownOnAllRanksAndLeavesNothing) {
  std::atomic<int> failed = 0;
  on_mesh(data_, small_options(), on(1, 1, 2), [&](MeshRank& rank) {
    MeshSaver saver(rank.model, run_, SaveMode::kAsync);
    if (rank.world.rank() == 1) rank.model.params().all()[0].m.f32()[0] = std::nanf("");
    saver.begin({.step = 4});
    try {
      saver.wait();
    } catch (const Error& e) {
      failed += e.code() == Exit::kNumeric;
    }
    EXPECT_FALSE(saver.in_flight());
    if (rank.world.rank() == 1) rank.model.params().all()[0].m.f32()[0] = 0;
    saver.begin({.step = 5});
    EXPECT_EQ(saver.wait()->step, 5);
  });
  EXPECT_EQ(failed, 2);
  EXPECT_EQ(names_in(run_), (std::vector<std::string>{"latest", "step-00000005"}));
}

TEST(SaveInterval, YoungAndDaly) {
  EXPECT_EQ(steps_between_saves(2, 1, 3600, 1), 120);
  EXPECT_EQ(steps_between_saves(0.5, 1, 3600, 0.5), 120);
  EXPECT_EQ(steps_between_saves(0, 30, 3600, 1), 60) << "not before the last one is on the disk";
  EXPECT_EQ(steps_between_saves(0, 0, 3600, 1), 1);
  EXPECT_TRUE(SaveEvery::parse("auto").is_auto);
  EXPECT_EQ(SaveEvery::parse("500").steps, 500);
  EXPECT_EQ(SaveFailPolicy::parse("warn:7").limit, 7);
  EXPECT_EQ(SaveFailPolicy::parse("stop").limit, 1);
  for (const char* bad : {"-1", "1.5", "", "10x", "never"}) EXPECT_THROW(SaveEvery::parse(bad), Error) << bad;
  for (const char* bad : {"warn", "warn:0", "warn:", "go", ""}) EXPECT_THROW(SaveFailPolicy::parse(bad), Error) << bad;
}

// Scenario 13.
TEST_F(CheckpointTest, ARunDirectoryHasOneWriter) {
  fs::create_directories(run_);
  std::string m;
  {
    RunLock first(run_);
    EXPECT_EQ(code_of([&] { RunLock second(run_, 0); }, m), Exit::kCannotCreate);
    EXPECT_THAT(m, HasSubstr("process " + std::to_string(getpid())));
    EXPECT_THAT(m, HasSubstr("since 2"));
  }
  EXPECT_FALSE(fs::exists(run_ + "/lock"));
  const pid_t child = fork();
  if (child == 0) {
    RunLock held(run_);
    _exit(0);  // as if killed
  }
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(fs::exists(run_ + "/lock"));
  EXPECT_NO_THROW(RunLock(run_, 1)) << "its process is gone";
  std::ofstream(run_ + "/lock") << R"({"owner":"elsewhere-1-00","host":"elsewhere","pid":1,"start":"x","heartbeat":1})";
  EXPECT_NO_THROW(RunLock(run_, 1)) << "its heartbeat is old";
  std::ofstream(run_ + "/lock") << R"({"owner":"elsewhere-1-00","host":"elsewhere","pid":1,"start":"x","heartbeat":)"
                                << time(nullptr) << "}";
  EXPECT_EQ(code_of([&] { RunLock second(run_, 0.1); }, m), Exit::kCannotCreate);
  EXPECT_THAT(m, HasSubstr("host elsewhere"));
}

// 10 rows, micro-batch 2, 3 ranks: every sample of the step once, whoever computes it, before and after a change of ranks.
TEST(GlobalBatchCut, NoSampleIsLostOrRepeated) {
  for (const int batch : {1, 7, 10, 13})
    for (const int micro : {0, 1, 2, 3})
      for (const int ranks : {1, 2, 3, 4, 7, 11}) {
        std::multiset<int> samples;
        for (int r = 0; r < ranks; ++r) {
          const BatchCut cut{batch, micro, 4, ranks, r};
          for (int i = 0; i < cut.num_micro_batches(); ++i)
            for (int s = 0; s < cut.range(i).count; ++s) samples.insert(cut.range(i).first + s);
        }
        ASSERT_EQ(samples.size(), static_cast<std::size_t>(batch)) << batch << " " << micro << " " << ranks;
        ASSERT_EQ(std::set<int>(samples.begin(), samples.end()).size(), samples.size());
        ASSERT_EQ(*samples.begin(), 0);
        ASSERT_EQ(*samples.rbegin(), batch - 1);
      }
}

}  // namespace
}  // namespace moe
