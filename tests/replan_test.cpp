// Experts that move while a model trains: the state is the same before and after, bit for bit, whatever the placements, and
// training goes on as if nobody had moved. What loads ask for a move, and which do not. Not here: solvers
// (place_solve_test.cpp), moe-train's options (plans_test.sh), training under one plan (train_plan_test.cpp).
#include "lib/run/replan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "lib/parallel/migrate.h"
#include "tests/compare.h"
#include "tests/train_on_mesh.h"

namespace moe {
namespace {

constexpr int kVocab = 23, kExperts = 6;

TrainOptions options(DType dtype) {
  TrainOptions o;
  o.common.seed = 3;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 2, c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = kExperts, c.top_k = 2, c.expert_ffn = 7, c.num_shared_experts = 1, c.init_std = 0.2f, c.rope_theta = 100;
  c.router_score = Score::kSigmoid, c.router_bias = true;
  o.balance = {.bias_update_speed = 0.01f};
  o.batch = 8, o.seq = 9, o.lr = 4e-3f, o.grad_clip = 1, o.dtype = dtype;
  o.ema = 0.9, o.moments = dtype;
  return o;
}

using Ranks = std::vector<std::vector<int>>;
Placement plan_of(const Ranks& first, const Ranks& second) { return {kExperts, {0, 1}, {{first}, {second}}}; }
const Placement kNone;
const Placement kPermuted = plan_of({{5, 0}, {2, 4, 1, 3}}, {{1, 3, 5}, {0, 2, 4}});
const Placement kCopies = plan_of({{5, 0, 3, 1}, {2, 4, 1, 0}}, {{0, 1, 2, 3, 4, 5}, {5}});

float value(const Mat& shard, std::int64_t at) {  // 0 of what Muon does not keep
  return !shard.data ? 0 : shard.dtype == DType::kF32 ? shard.f32()[at] : to_float(shard.bf16()[at]);
}

struct Training {
  MeshModel on;
  std::unique_ptr<Trainer> trainer;
  double loss = 0;

  void steps(int n) {
    for (int s = 0; s < n; ++s) loss = trainer->step(4e-3).loss;
  }
  // Of this rank: everything that it speaks for, by tensor and element.
  std::map<std::pair<std::string, std::int64_t>, std::array<float, 4>> state() const {
    std::map<std::pair<std::string, std::int64_t>, std::array<float, 4>> all;
    for (const Param& p : on.model->params().all())
      for (const ShardRun& run : on.model->params().runs(p))
        for (std::int64_t i = 0; i < run.count && !run.is_copy; ++i) {
          const std::int64_t at = run.at + i;
          all[{p.spec.name, run.global + i}] = {p.master[at], value(p.m, at), value(p.v, at), p.ema[at]};
        }
    return all;
  }
};
using State = decltype(Training{}.state());

struct Setting {
  MeshShape shape;
  int zero;
  DType dtype;
};

class Replan : public ::testing::Test {
 protected:
  const std::string path_ = make_training_data("replan", kVocab, 700);
  ~Replan() override { std::filesystem::remove(path_); }

  // body(rank's World, options, a training that begins under `plan`, data) on every rank.
  template <class Body>
  void on_ranks(const Setting& s, const Placement& plan, Body body) {
    const std::vector<int> one_node(static_cast<std::size_t>(s.shape.size()), 0);
    run_thread_ranks(s.shape.size(), [&](std::unique_ptr<Comm> comm) {
      omp_set_num_threads(1);
      World world(std::move(comm), one_node);
      const TrainOptions o = options(s.dtype);
      const TokenSource data = TokenSource::open(path_);
      Stream stream(1);
      const Env env{stream, cpu_kernels()};
      Training t{make_mesh_model(world, {.shape = s.shape, .zero = s.zero, .plan = plan}, o, env), nullptr};
      t.on.model->initialize(o.common.seed);
      t.on.model->params().start_ema(stream);
      t.trainer = std::make_unique<Trainer>(o, *t.on.model, data, env);
      const auto move = [&](const Placement& to) {
        MeshModel moved = migrated(t.on, to, o, env);
        auto trainer = std::make_unique<Trainer>(o, *moved.model, data, env);
        trainer->go_on_from(*t.trainer);
        t.trainer = std::move(trainer);
        t.on = std::move(moved);
      };
      body(t, move);
    });
  }
};

const Setting kSettings[] = {{{1, 1, 2}, 3, DType::kF32},
                             {{1, 2, 2}, 3, DType::kBF16},
                             {{2, 1, 2}, 1, DType::kF32},
                             {{1, 3, 2}, 2, DType::kF32},
                             {{2, 2, 2}, 3, DType::kF32}};

TEST_F(Replan, TheStateIsTheSame) {
  for (const Setting& s : kSettings) {
    SCOPED_TRACE(mesh_text(s.shape) + " zero " + std::to_string(s.zero));
    std::mutex mutex;
    State before, after[3];
    on_ranks(s, kNone, [&](Training& t, const auto& move) {
      const auto collect = [&](State& all) {
        const State mine = t.state();
        const std::scoped_lock lock(mutex);
        for (const auto& [key, values] : mine) {
          const auto [at, is_new] = all.try_emplace(key, values);
          EXPECT_EQ(std::memcmp(at->second.data(), values.data(), sizeof values), 0) << key.first;
        }
      };
      t.steps(2);
      collect(before);
      int i = 0;
      for (const Placement& plan : {kPermuted, kCopies, kNone}) {
        move(plan);
        collect(after[i++]);
      }
    });
    std::size_t num_elements = 0;
    for (const ParamSpec& spec : parameter_specs(options(s.dtype).model))
      num_elements += static_cast<std::size_t>(spec.num_elements());
    EXPECT_EQ(before.size(), num_elements);
    for (const State& now : after) {
      ASSERT_EQ(now.size(), before.size());
      for (const auto& [key, values] : before)
        ASSERT_EQ(std::memcmp(now.at(key).data(), values.data(), sizeof values), 0) << key.first << " " << key.second;
    }
  }
}

TEST_F(Replan, TrainingGoesOnAsIfNobodyHadMoved) {
  for (const Setting& s : kSettings) {
    SCOPED_TRACE(mesh_text(s.shape) + " zero " + std::to_string(s.zero));
    std::mutex mutex;
    double want = 0, got = 0;
    std::vector<float> want_bias, got_bias;
    on_ranks(s, kNone, [&](Training& t, const auto&) {
      t.steps(7);
      const std::scoped_lock lock(mutex);
      want = t.loss, want_bias = t.on.model->router_bias(1);
    });
    on_ranks(s, kNone, [&](Training& t, const auto& move) {
      t.steps(1);
      move(kPermuted);
      t.steps(2);
      move(kCopies);
      t.steps(2);
      move(kPermuted);
      t.steps(2);
      EXPECT_EQ(t.trainer->steps_done, 7);
      EXPECT_EQ(t.trainer->updates_done, 7);
      const std::scoped_lock lock(mutex);
      got = t.loss, got_bias = t.on.model->router_bias(1);
    });
    EXPECT_NEAR(got, want, (s.dtype == DType::kF32 ? 1e-5 : 5e-3) * want);
    if (s.dtype == DType::kF32) {
      EXPECT_EQ(got_bias, want_bias);
    }
  }
}

// Two numbers that change places, a number that changes, one that is counted twice: another fingerprint.
TEST_F(Replan, TheFingerprintSeesWhatIsMixedUp) {
  Model model(options(DType::kF32).model, DType::kF32, true);
  model.initialize(1);
  const std::uint64_t whole = state_fingerprint(model.params());
  Param& p = const_cast<Param&>(model.params().find("layers.0.experts.down.weight"));
  EXPECT_EQ(state_fingerprint(model.params()), whole);
  std::swap(p.master[3], p.master[100]);
  EXPECT_NE(state_fingerprint(model.params()), whole);
  std::swap(p.master[3], p.master[100]);
  EXPECT_EQ(state_fingerprint(model.params()), whole);
  std::swap(p.master[3], p.m.f32()[3]);
  EXPECT_NE(state_fingerprint(model.params()), whole);
  std::swap(p.master[3], p.m.f32()[3]);
  p.v.f32()[5] = 1;
  EXPECT_NE(state_fingerprint(model.params()), whole);
}

StepResult step_with(const std::vector<std::int64_t>& counts_E) {
  StepResult step;
  step.layers.resize(2);
  for (LayerResult& layer : step.layers) layer.counts_E = counts_E;
  return step;
}

TEST_F(Replan, DecidesByTheLoadsSinceTheLastLook) {
  on_ranks(kSettings[0], kNone, [&](Training& t, const auto& move) {
    TrainOptions o = options(DType::kF32);
    o.replan_every = 5;
    Replanner::Counts counts;
    Replanner replanner(o, counts);
    EXPECT_TRUE(replanner.due(10));
    EXPECT_FALSE(replanner.due(11));
    const std::vector<std::int64_t> pairs(2 * kExperts * kExperts);
    const auto decide = [&] { return replanner.decide(*t.on.mesh, {0, 1}, pairs); };
    EXPECT_FALSE(decide()) << "nothing counted";
    replanner.add_step(step_with({9, 9, 9, 3, 3, 3}));  // linear: 27 and 9; the best: 18 and 18? 9+9 and 9+3+3+3
    const auto decision = decide();
    ASSERT_TRUE(decision);
    EXPECT_DOUBLE_EQ(decision->before, 1.5);
    EXPECT_NEAR(decision->after, 21.0 / 18, 1e-12) << "three experts on each rank";
    EXPECT_GT(decision->num_moves, 0);
    EXPECT_TRUE(placement_faults(decision->plan).empty());
    EXPECT_FALSE(decide()) << "counts begin anew";
    EXPECT_TRUE(counts.empty());
    move(decision->plan);
    replanner.add_step(step_with({9, 9, 9, 3, 3, 3}));
    EXPECT_FALSE(decide()) << "as good as it gets";
  });
}

}  // namespace
}  // namespace moe
