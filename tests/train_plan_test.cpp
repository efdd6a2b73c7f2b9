// Where experts live changes nothing in the model: training on thread ranks under plans of every kind (permutations, uneven
// ranks, copies) against one process, on the same global batches. Copies stay equal bit for bit; what is saved holds every
// expert once. Not here: plan files and MPI (plans_test.sh), meshes without a plan (train_mesh_test.cpp).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "lib/run/mesh_save.h"
#include "tests/compare.h"
#include "tests/train_on_mesh.h"

namespace moe {
namespace {

constexpr int kVocab = 29, kSteps = 12, kExperts = 6;

TrainOptions options() {
  TrainOptions o;
  o.common.seed = 5;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 3, c.num_dense_layers = 1, c.dense_ffn = 10;
  c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = kExperts, c.top_k = 3, c.expert_ffn = 7, c.num_shared_experts = 1, c.init_std = 0.2f, c.rope_theta = 100;
  c.router_score = Score::kSigmoid, c.router_bias = true;
  c.expert_bias = true;  // tensors of experts too: [E, N, 1]
  o.balance = {.seq_aux = 0.02f, .global_aux = 0.03f, .bias_update_speed = 0.01f};
  o.batch = 8, o.seq = 9, o.steps = kSteps, o.lr = 4e-3f, o.weight_decay = 0.1f, o.grad_clip = 1;
  return o;
}

using Ranks = std::vector<std::vector<int>>;
Placement plan_of(const Ranks& first, const Ranks& second) { return {kExperts, {1, 2}, {{first}, {second}}}; }

MeshSetting setting(int replicate, int shard, const Placement& plan, int zero = 3, std::vector<int> rank2node = {},
                    DispatchMode dispatch = DispatchMode::kAuto, ReplicaChoice choice = ReplicaChoice::kSpread) {
  return {{.shape = {replicate, shard, plan.num_ranks()},
           .zero = zero,
           .dispatch = dispatch,
           .plan = plan,
           .replica_choice = choice},
          std::move(rank2node)};
}

constexpr auto kTwoLevel = DispatchMode::kTwoLevel;

std::vector<MeshSetting> permutations() {
  const Placement two = plan_of({{5, 0, 3}, {2, 4, 1}}, {{1, 3, 5}, {0, 2, 4}});
  const Placement uneven = plan_of({{4}, {0, 1, 2, 3, 5}}, {{5, 4, 3, 2, 1, 0}, {}});
  const Placement four = plan_of({{3, 1}, {5}, {0, 2}, {4}}, {{}, {0, 5}, {4, 1, 2}, {3}});
  return {setting(1, 1, two),
          setting(1, 2, two, 1),
          setting(2, 1, uneven, 2),
          setting(1, 3, uneven),
          setting(1, 1, four, 3, {0, 0, 1, 1}, kTwoLevel),
          setting(1, 2, four, 3, {0, 0, 1, 1, 2, 2, 3, 3}, kTwoLevel)};
}

std::vector<MeshSetting> with_copies() {
  const Placement two = plan_of({{5, 0, 3, 1}, {2, 4, 1, 0}}, {{1, 3, 5}, {0, 2, 4, 5}});
  const Placement all = plan_of({{0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}}, {{0, 1, 2}, {3, 4, 5}});
  const Placement four = plan_of({{3, 1}, {5, 3}, {0, 2, 3}, {4, 3}}, {{}, {0, 5}, {4, 1, 2, 0}, {3, 0, 5}});
  const auto nearest = ReplicaChoice::kNearest;
  return {setting(1, 1, two),
          setting(1, 2, two, 1),
          setting(1, 3, two, 2),
          setting(2, 1, all, 2),
          setting(1, 2, all, 3),
          setting(1, 1, four, 3, {0, 0, 1, 1}, kTwoLevel),
          setting(1, 1, four, 1, {0, 0, 1, 1}, kTwoLevel, nearest),
          setting(1, 2, four, 3, {0, 0, 1, 1, 2, 2, 3, 3}, kTwoLevel, nearest),
          setting(2, 1, four, 3, {}, DispatchMode::kFlat)};
}

bool relative(double got, double want, double tolerance) { return std::fabs(got - want) <= tolerance * std::fabs(want); }

void expect_the_same_model(const TrainedModel& got, const TrainedModel& want, double tolerance) {
  for (std::size_t s = 0; s < want.steps.size(); ++s) {
    EXPECT_PRED3(relative, got.steps[s].loss, want.steps[s].loss, tolerance) << "step " << s;
    EXPECT_PRED3(relative, got.steps[s].grad_norm, want.steps[s].grad_norm, 10 * tolerance) << "step " << s;
    for (std::size_t i = 0; i < want.steps[s].layers.size(); ++i)
      EXPECT_EQ(got.steps[s].layers[i].counts_E, want.steps[s].layers[i].counts_E) << "step " << s;
  }
  for (const auto& params : got.replica2params)
    for (const auto& [name, w] : want.replica2params[0])
      EXPECT_TRUE(close_to(std::span<const float>(params.at(name)), std::span<const float>(w), 1e-3)) << name;
  EXPECT_EQ(got.rank2bias[0], want.rank2bias[0]);
  EXPECT_PRED3(relative, got.evaluation.loss, want.evaluation.loss, tolerance);
}

class TrainPlan : public ::testing::Test {
 protected:
  const std::string data_ = make_training_data("train_plan", kVocab, 700);
  ~TrainPlan() override { std::filesystem::remove(data_); }
  TrainedModel train(const MeshSetting& on) const { return train_on_mesh(data_, options(), on); }
};

TEST_F(TrainPlan, PermutationsChangeNothing) {
  const TrainedModel want = train({});
  for (const MeshSetting& on : permutations()) {
    SCOPED_TRACE(setting_text(on));
    expect_the_same_model(train(on), want, 1e-6);
  }
}

TEST_F(TrainPlan, CopiesChangeNothing) {
  const TrainedModel want = train({});
  for (const MeshSetting& on : with_copies()) {
    SCOPED_TRACE(setting_text(on));
    expect_the_same_model(train(on), want, 1e-5);
  }
}

// All experts on the rank that they would be on anyway, listed in another order: the same bits as without a plan.
TEST_F(TrainPlan, TheOrderInsideARankIsNothing) {
  const MeshSetting bare{{.shape = {1, 2, 2}}};
  const TrainedModel want = train(bare);
  const TrainedModel got = train(setting(1, 2, plan_of({{2, 0, 1}, {5, 4, 3}}, {{1, 2, 0}, {3, 5, 4}})));
  for (const auto& [name, w] : want.replica2params[0]) EXPECT_TRUE(same_bits(got.replica2params[0].at(name), w)) << name;
  EXPECT_EQ(got.rank2losses, want.rank2losses);
}

// Every copy of an element: weight, moments, of whoever holds it.
TEST_F(TrainPlan, CopiesStayEqualBitForBit) {
  for (const MeshSetting& on : with_copies()) {
    SCOPED_TRACE(setting_text(on));
    using Key = std::pair<std::string, std::int64_t>;
    std::map<Key, std::array<float, 3>> seen;
    std::size_t num_copies = 0;
    std::mutex mutex;
    on_mesh(data_, options(), on, [&](MeshRank& rank) {
      for (int s = 0; s < 5; ++s) rank.trainer.step(4e-3);
      const std::scoped_lock lock(mutex);
      for (const Param& p : rank.model.params().all()) {
        if (!p.spec.is_expert) continue;
        for (const ShardRun& run : rank.model.params().runs(p))
          for (std::int64_t i = 0; i < run.count; ++i) {
            const auto at = run.at + i;
            const std::array<float, 3> mine = {p.master[at], p.m.f32()[at], p.v.f32()[at]};
            const auto [first, unused] = seen.try_emplace({p.spec.name, run.global + i}, mine);
            num_copies += run.is_copy;
            EXPECT_EQ(std::memcmp(first->second.data(), mine.data(), sizeof mine), 0) << p.spec.name;
          }
      }
    });
    EXPECT_GT(num_copies, 0u);
  }
}

// Elements of expert tensors that the ranks would save: each exactly once.
TEST_F(TrainPlan, EveryExpertIsSavedOnce) {
  std::vector<MeshSetting> all = permutations();
  for (MeshSetting& on : with_copies()) all.push_back(std::move(on));
  for (const MeshSetting& on : all) {
    SCOPED_TRACE(setting_text(on));
    std::map<std::string, std::vector<int>> times;
    std::mutex mutex;
    on_mesh(data_, options(), on, [&](MeshRank& rank) {
      const std::scoped_lock lock(mutex);
      for (const TensorSlice& s : slices_to_write(rank.model)) {
        if (s.role != "m" || s.shape.size() != 3) continue;
        auto& t = times[s.name];
        t.resize(static_cast<std::size_t>(s.shape[0] * s.shape[1]));
        for (std::int64_t e = 0; e < s.extent[0]; ++e)
          for (std::int64_t row = 0; row < s.extent[1]; ++row)
            ++t[static_cast<std::size_t>((s.offset[0] + e) * s.shape[1] + s.offset[1] + row)];
      }
    });
    EXPECT_EQ(times.size(), 8u);
    for (const auto& [name, t] : times) EXPECT_TRUE(std::all_of(t.begin(), t.end(), [](int n) { return n == 1; })) << name;
  }
}

}  // namespace
}  // namespace moe
