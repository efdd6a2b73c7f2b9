// Training with moments in bf16, with a moving average of parameters, with Muon: on meshes, from checkpoints of other meshes
// and other choices, and what losses they reach. Not here: kernels (adamw_test.cpp, muon_test.cpp), tools
// (optimizer_cli_test.sh).
#include <gtest/gtest.h>

#include <numeric>

#include "lib/run/mesh_load.h"
#include "lib/run/mesh_save.h"
#include "tests/checkpoint_case.h"
#include "tests/compare.h"
#include "tests/train_on_mesh.h"

namespace moe {
namespace {

constexpr int kVocab = 23;

TrainOptions options(Optimizer optimizer = Optimizer::kAdamW) {
  TrainOptions o;
  o.common.seed = 3;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 2, c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 5, c.top_k = 2, c.expert_ffn = 7, c.num_shared_experts = 1, c.init_std = 0.2f, c.rope_theta = 100;
  o.batch = 8, o.seq = 9, o.lr = 4e-3f, o.weight_decay = 0.1f, o.grad_clip = 1, o.optimizer = optimizer;
  return o;
}

MeshSetting on(int replicate, int shard, int ep, int zero = 3) {
  return {{.shape = {replicate, shard, ep}, .zero = zero}, {}};
}

class OptimizerTest : public CheckpointTest {
 protected:
  void SetUp() override {
    CheckpointTest::SetUp();
    data_ = make_training_data("optimizer", kVocab, 3000);
  }
  void TearDown() override {
    CheckpointTest::TearDown();
    fs::remove(data_);
  }

  struct Outcome {
    std::vector<double> losses;
    std::string digest, digest_at_load;
  };
  // Trains from step `from`, loading the checkpoint `load` if any, to step `to`, which is saved in `save` if any.
  Outcome run(const TrainOptions& o, const MeshSetting& setting, int from, int to, const std::string& load,
              const std::string& save) {
    Outcome out;
    on_mesh(data_, o, setting, [&](MeshRank& rank) {
      if (!load.empty()) {
        load_on_mesh(rank.model, manifest_on_mesh(rank.world, load), load);
        const FinishedSave again = save_on_mesh(rank.model, load + "-again", {.step = from, .force = true});
        rank.trainer.steps_done = rank.trainer.updates_done = from;
        rank.trainer.consumed_samples = std::int64_t{from} * o.batch;
        if (rank.world.rank() == 0) out.digest_at_load = again.digest;
      }
      for (int s = from; s < to; ++s) {
        const StepResult step = rank.trainer.step(static_cast<double>(o.lr));
        if (rank.world.rank() == 0) out.losses.push_back(step.loss);
      }
      if (save.empty()) return;
      const FinishedSave saved = save_on_mesh(rank.model, save, {.step = to});
      if (rank.world.rank() == 0) out.digest = saved.digest;
    });
    return out;
  }
  double mean_of_last(const TrainOptions& o, int steps) {
    constexpr int kLast = 10;
    const std::vector<double> losses = run(o, on(1, 1, 1), 0, steps, "", "").losses;
    return std::accumulate(losses.end() - kLast, losses.end(), 0.0) / kLast;
  }

  std::string data_;
};

TEST_F(OptimizerTest, MuonDoesNotDependOnTheMesh) {
  TrainOptions o = options(Optimizer::kMuon);
  o.steps = 4;
  const TrainedModel want = train_on_mesh(data_, o, on(1, 1, 1));
  for (const MeshSetting& mesh : {on(1, 2, 1), on(1, 1, 2), on(1, 2, 2, 1), on(1, 2, 2, 2), on(2, 2, 1), on(2, 1, 2)}) {
    SCOPED_TRACE(setting_text(mesh));
    const TrainedModel got = train_on_mesh(data_, o, mesh), again = train_on_mesh(data_, o, mesh);
    for (std::size_t s = 0; s < want.steps.size(); ++s) {
      EXPECT_NEAR(got.steps[s].loss, want.steps[s].loss, 1e-4 * want.steps[s].loss);
      EXPECT_EQ(got.steps[s].loss, again.steps[s].loss) << "one mesh, other bits";
    }
    for (const auto& replica : got.replica2params) EXPECT_EQ(replica, got.replica2params[0]) << "replicas differ";
  }
}

// Every choice at once: what is loaded on any mesh is what was saved; on the same mesh it goes on with the same bits.
TEST_F(OptimizerTest, ResumesOnTheSameMeshBitForBitAndOnOthersWithTheSameState) {
  for (const Optimizer optimizer : {Optimizer::kAdamW, Optimizer::kMuon}) {
    TrainOptions o = options(optimizer);
    o.moments = DType::kBF16, o.ema = 0.9;
    const std::string name = run_ + (optimizer == Optimizer::kMuon ? "muon" : "adamw"), path = name + "/step-00000003";
    const MeshSetting mesh = on(1, 2, 2);
    const Outcome whole = run(o, mesh, 0, 6, "", name + "-whole"), half = run(o, mesh, 0, 3, "", name);
    const Outcome rest = run(o, mesh, 3, 6, path, name + "-rest");
    EXPECT_EQ(rest.losses, std::vector<double>(whole.losses.begin() + 3, whole.losses.end()));
    EXPECT_EQ(rest.digest, whole.digest);
    for (const MeshSetting& other : {on(1, 1, 1), on(2, 1, 2), on(1, 3, 1, 2), on(1, 4, 1, 1)}) {
      const Outcome there = run(o, other, 3, 6, path, "");
      EXPECT_EQ(there.digest_at_load, half.digest) << setting_text(other);
      for (std::size_t s = 0; s < 3; ++s) EXPECT_NEAR(there.losses[s], rest.losses[s], 1e-3 * rest.losses[s]);
    }
  }
}

TEST_F(OptimizerTest, CheckpointsHoldTheRolesThatAreKept) {
  TrainOptions o = options(Optimizer::kMuon);
  o.moments = DType::kBF16, o.ema = 0.9;
  run(o, on(1, 2, 1), 0, 1, "", run_);
  std::map<std::string, int> roles;
  int num_tensors = 0;
  for (const CheckpointInfo::Tensor& t : open_checkpoint(run_).tensors) {
    ++roles[t.role];
    EXPECT_TRUE((t.role != "m" && t.role != "v") || t.dtype == DType::kBF16) << t.name;
    EXPECT_TRUE(t.role != "ema" || t.dtype == DType::kF32) << t.name;
  }
  int num_matrices = 0;
  for (const ParamSpec& spec : parameter_specs(o.model)) ++num_tensors, num_matrices += !spec.matrix_rows.empty();
  EXPECT_EQ(roles["weight"], num_tensors);
  EXPECT_EQ(roles["m"], num_tensors);
  EXPECT_EQ(roles["v"], num_tensors - num_matrices);
  EXPECT_EQ(roles["ema"], num_tensors);
}

// fp32 moments are rounded once, bf16 moments are taken as they are, an average that is not there begins at the masters.
TEST_F(OptimizerTest, OtherMomentsAndAveragesAreLoaded) {
  TrainOptions wide = options(), narrow = options();
  narrow.moments = DType::kBF16, narrow.ema = 0.5;
  run(wide, on(1, 1, 1), 0, 2, "", run_ + "wide");
  const std::string path = run_ + "wide/step-00000002";
  for (const MeshSetting& mesh : {on(1, 1, 1), on(2, 2, 1)})
    on_mesh(data_, narrow, mesh, [&](MeshRank& rank) {
      load_on_mesh(rank.model, manifest_on_mesh(rank.world, path), path);
      MeshContext there(rank.world, mesh.mesh, 5, cpu_kernels());
      Model before(wide.model, DType::kF32, true, there);
      load_on_mesh(before, manifest_on_mesh(rank.world, path), path);
      double sum = 0;
      for (std::size_t t = 0; t < before.params().all().size(); ++t) {
        const Param &a = before.params().all()[t], &b = rank.model.params().all()[t];
        for (std::int64_t i = 0; i < a.shard_size(); ++i) {
          ASSERT_EQ(b.m.bf16()[i].bits, to_bf16(a.m.f32()[i]).bits) << a.spec.name;
          ASSERT_EQ(b.v.bf16()[i].bits, to_bf16(a.v.f32()[i]).bits) << a.spec.name;
          ASSERT_EQ(b.ema[i], a.master[i]);
          sum += std::fabs(a.m.f32()[i]);
        }
      }
      EXPECT_GT(sum, 0);
      save_on_mesh(rank.model, path + "-narrow", {.step = 2, .force = true});
    });
  const std::string back = path + "-narrow/step-00000002";
  on_mesh(data_, wide, on(1, 1, 2), [&](MeshRank& rank) {
    load_on_mesh(rank.model, manifest_on_mesh(rank.world, back), back);  // its average is left out
    for (const Param& p : rank.model.params().all())
      for (std::int64_t i = 0; i < p.shard_size(); ++i) ASSERT_EQ(to_float(to_bf16(p.m.f32()[i])), p.m.f32()[i]);
  });
}

TEST_F(OptimizerTest, AverageFollowsTheMastersAndTakesTheirPlace) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const MeshSetting& mesh : {on(1, 1, 1), on(1, 2, 2), on(2, 2, 1, 1)}) {
      TrainOptions o = options();
      o.ema = 0.75, o.dtype = dtype;
      SCOPED_TRACE(setting_text(mesh));
      on_mesh(data_, o, mesh, [&](MeshRank& rank) {
        std::vector<std::vector<double>> want;
        for (const Param& p : rank.model.params().all()) want.emplace_back(p.master, p.master + p.shard_size());
        for (int s = 0; s < 3; ++s) {
          rank.trainer.step(4e-3);
          for (std::size_t t = 0; t < want.size(); ++t)
            for (std::size_t i = 0; i < want[t].size(); ++i)
              want[t][i] = 0.75 * want[t][i] + 0.25 * rank.model.params().all()[t].master[i];
        }
        for (std::size_t t = 0; t < want.size(); ++t) {
          const Param& p = rank.model.params().all()[t];
          const std::span<const float> got(p.ema, static_cast<std::size_t>(p.shard_size()));
          EXPECT_TRUE(close_to(got, std::span<const double>(want[t]), 1e-6)) << p.spec.name;
        }
        const double trained = rank.evaluate_all(2).loss;
        rank.model.params().swap_ema(rank.env);
        rank.model.units().weights_changed();
        const double averaged = rank.evaluate_all(2).loss;
        rank.model.params().swap_ema(rank.env);
        rank.model.units().weights_changed();
        EXPECT_NE(averaged, trained);
        EXPECT_EQ(rank.evaluate_all(2).loss, trained) << "bit for bit";
      });
    }
}

// Each at its best learning rate of a few, the same for both: that is what the factor of the update is for.
TEST_F(OptimizerTest, ReachesTheLossOfAdamW) {
  const auto best = [&](TrainOptions o) {
    double least = std::log(kVocab);
    for (const float lr : {4e-3f, 1e-2f, 2e-2f}) {
      o.lr = lr;
      const double loss = mean_of_last(o, 80);
      RecordProperty((o.optimizer == Optimizer::kMuon ? "muon " : "adamw ") + std::to_string(lr), std::to_string(loss));
      least = std::min(least, loss);
    }
    return least;
  };
  TrainOptions narrow = options();
  narrow.moments = DType::kBF16;
  const double adamw = best(options()), muon = best(options(Optimizer::kMuon)), bf16 = best(narrow);
  EXPECT_LT(adamw, 0.9 * std::log(kVocab)) << "it learns";
  EXPECT_LE(muon, 1.01 * adamw);  // equal but for the noise of so short a run
  EXPECT_NEAR(bf16, adamw, 0.02 * adamw);
  EXPECT_NE(bf16, adamw) << "the option changes nothing";
}

}  // namespace
}  // namespace moe
