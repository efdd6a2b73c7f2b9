// The decisions that a training run records: in the order of the global batch on every mesh, of all layers, as many as the
// step counts. Not here: the file (router_trace_test.cpp), the tools (replay_test.sh).
#include "lib/run/train_trace.h"

#include <gtest/gtest.h>

#include "tests/train_on_mesh.h"

namespace moe {
namespace {

constexpr int kVocab = 37;

TrainOptions options() {
  TrainOptions o;
  o.common.seed = 11;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 3, c.num_dense_layers = 1, c.dense_ffn = 11;
  c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 5, c.top_k = 2, c.expert_ffn = 7, c.init_std = 0.2f, c.rope_theta = 100;
  o.batch = 7, o.seq = 9, o.steps = 3, o.lr = 4e-3f;
  return o;
}

// Of all steps, as rank 0 has them.
std::vector<std::vector<std::int16_t>> decisions_of(const std::string& data, const TrainOptions& o, const MeshOptions& mesh,
                                                    const std::vector<int>& rank2node = {}) {
  std::vector<std::vector<std::int16_t>> steps;
  on_mesh(data, o, {mesh, rank2node}, [&](MeshRank& rank) {
    const std::vector<int> layers = rank.model.moe_layers();
    for (const int layer : layers) rank.trainer.tally(layer).records = true;
    for (int s = 0; s < o.steps; ++s) {
      const StepResult result = rank.trainer.step(static_cast<double>(o.lr));
      const auto idx_LTK = gather_decisions(rank.world, rank.trainer, layers, o.model.top_k);
      if (rank.world.rank() != 0) {
        EXPECT_TRUE(idx_LTK.empty());
        continue;
      }
      ASSERT_EQ(idx_LTK.size(), layers.size() * static_cast<std::size_t>(o.batch * o.seq * o.model.top_k));
      for (std::size_t l = 0; l < layers.size(); ++l) {
        std::vector<std::int64_t> counts_E(static_cast<std::size_t>(o.model.num_experts));
        const std::size_t size = idx_LTK.size() / layers.size();
        for (std::size_t i = l * size; i < (l + 1) * size; ++i) ++counts_E.at(static_cast<std::size_t>(idx_LTK[i]));
        EXPECT_EQ(counts_E, result.layers[l].counts_E) << "layer " << layers[l];
      }
      steps.push_back(idx_LTK);
    }
  });
  return steps;
}

TEST(TrainTrace, DoesNotDependOnTheMesh) {
  const std::string data = make_training_data("trace", kVocab, 900);
  TrainOptions o = options();
  const auto want = decisions_of(data, o, {});
  ASSERT_EQ(want.size(), 3U);
  EXPECT_NE(want[0], want[1]);
  EXPECT_EQ(decisions_of(data, o, {.shape = {1, 2, 2}}), want);
  EXPECT_EQ(decisions_of(data, o, {.shape = {2, 1, 2}}, {0, 0, 1, 1}), want);
  EXPECT_EQ(decisions_of(data, o, {.shape = {1, 1, 4}, .dispatch = DispatchMode::kTwoLevel}, {0, 0, 1, 1}), want);
  EXPECT_EQ(decisions_of(data, o, {.shape = {1, 8, 1}}), want) << "a rank without tokens";
  o.recompute = Recompute::kFull;
  EXPECT_EQ(decisions_of(data, o, {.shape = {1, 1, 3}}), want) << "what is computed again is not recorded again";
  o.micro_batch = 1;
  EXPECT_EQ(decisions_of(data, o, {.shape = {1, 1, 2}, .overlap = false}), want);
}

// What capacity drops was decided all the same.
TEST(TrainTrace, IsBeforeCapacity) {
  const std::string data = make_training_data("trace_capacity", kVocab, 900);
  TrainOptions o = options();
  o.steps = 1;
  const auto want = decisions_of(data, o, {});
  o.balance.capacity_factor = 0.5f;
  const auto found = decisions_of(data, o, {.shape = {1, 1, 2}});
  const auto first_layer = static_cast<long>(want[0].size() / 2);
  EXPECT_TRUE(std::equal(want[0].begin(), want[0].begin() + first_layer, found[0].begin()));
}

}  // namespace
}  // namespace moe
