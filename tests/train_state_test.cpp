// What each rank of a mesh saves and loads: its slices are where its layout says, those of all ranks make every tensor once,
// and a checkpoint of any mesh loads on any other with every element in its place.
// Not here: files (checkpoint_test.cpp, checkpoint_ranks_test.cpp).
#include "lib/run/train_state.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "lib/base/rng.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

struct Mesh {
  std::string name;
  int shard, ep;
  std::vector<int> experts;  // logical ids in the order of their places over the ep ranks
  int zero = 3;
  int size() const { return shard * ep; }
};

std::vector<Mesh> meshes() {
  return {{"one", 1, 1, {0, 1, 2, 3, 4}},
          {"permuted", 1, 1, {3, 0, 1, 4, 2}},
          {"shard 4", 4, 1, {0, 1, 2, 3, 4}},
          {"ep 3", 1, 3, {4, 2, 3, 0, 1}},
          {"shard 2 x ep 2", 2, 2, {1, 2, 3, 0, 4}},
          {"shard 3 x ep 2, zero 1", 3, 2, {0, 1, 2, 3, 4}, 1},
          {"ep 7, more than experts", 1, 7, {0, 1, 2, 3, 4}},
          {"shard 31, more than rows", 31, 1, {0, 1, 2, 3, 4}, 2}};
}

ModelConfig small_config() {
  ModelConfig c;
  c.vocab_size = 13, c.num_layers = 2, c.d_model = 6, c.num_heads = 1, c.num_kv_heads = 1, c.head_dim = 2;
  c.num_experts = 5, c.expert_ffn = 3, c.num_shared_experts = 1, c.num_dense_layers = 1, c.dense_ffn = 7;
  c.router_score = Score::kSigmoid, c.router_bias = true;
  return c;
}

ParamLayout layout_of(const Mesh& mesh, int rank) {
  const int shard = rank / mesh.ep, ep = rank % mesh.ep;
  const Cut places{ep, mesh.ep};
  const auto n = static_cast<std::int64_t>(mesh.experts.size());
  std::vector<LocalExpert> mine;
  for (auto i = places.begin(n); i < places.end(n); ++i) mine.push_back({mesh.experts[static_cast<std::size_t>(i)]});
  return {{mine}, {rank, mesh.size()}, {shard, mesh.shard}, mesh.zero};
}

std::vector<std::unique_ptr<Model>> ranks_of(const Mesh& mesh, DType dtype) {
  std::vector<std::unique_ptr<Model>> ranks;
  for (int r = 0; r < mesh.size(); ++r)
    ranks.push_back(std::make_unique<Model>(small_config(), dtype, true, layout_of(mesh, r)));
  return ranks;
}

// What the test says stands at an element of a tensor.
float truth(const std::string& name, const std::string& role, std::int64_t index) {
  return Rng(5, role + ":" + name).normal(static_cast<std::uint64_t>(index));
}

// visit(param, role, dtype, element in the shard, element in the whole) for all that a store holds. Independent of the
// slices: rows of a dense tensor from shard_begin, rows of the experts in the order of their places.
template <class Visit>
void for_each_element(Model& model, Visit visit) {
  for (const Param& p : model.params().all()) {
    for (std::int64_t row = 0; row < p.shard_rows; ++row) {
      std::int64_t global_row = p.shard_begin + row;
      if (p.spec.is_expert) {
        const std::int64_t place = global_row / p.spec.shape[1];
        const int expert = model.params().layout().layer2experts[0][static_cast<std::size_t>(place)].id;
        global_row = expert * p.spec.shape[1] + global_row % p.spec.shape[1];
      }
      for (std::int64_t c = 0; c < p.shard_cols; ++c) {
        const std::int64_t here = row * p.shard_cols + c, there = global_row * p.shard_cols + c;
        visit(p, "weight", model.dtype(), p.weight_shard, here, there);
        if (model.dtype() == DType::kBF16) visit(p, "master", DType::kF32, p.master, here, there);
        visit(p, "m", DType::kF32, p.m.data, here, there);
        visit(p, "v", DType::kF32, p.v.data, here, there);
      }
    }
  }
}

void set_all(Model& model, bool to_truth) {
  for_each_element(model,
                   [&](const Param& p, const char* role, DType dtype, void* shard, std::int64_t here, std::int64_t there) {
                     const float value = to_truth ? truth(p.spec.name, role, there) : -7.0f;
                     if (dtype == DType::kF32)
                       static_cast<float*>(shard)[here] = value;
                     else
                       static_cast<BF16*>(shard)[here] = to_bf16(value);
                   });
  auto& bias = model.router_bias(1);
  for (std::size_t e = 0; e < bias.size(); ++e)
    bias[e] = to_truth ? truth("bias", "bias", static_cast<std::int64_t>(e)) : -7;
}

// The number of elements that are not what they should be.
int num_wrong(Model& model) {
  int wrong = 0;
  for_each_element(model,
                   [&](const Param& p, const char* role, DType dtype, void* shard, std::int64_t here, std::int64_t there) {
                     const float want = truth(p.spec.name, role, there);
                     if (dtype == DType::kF32)
                       wrong += !(static_cast<float*>(shard)[here] == want);
                     else
                       wrong += static_cast<BF16*>(shard)[here].bits != to_bf16(want).bits;
                   });
  const auto& bias = model.router_bias(1);
  for (std::size_t e = 0; e < bias.size(); ++e) wrong += !(bias[e] == truth("bias", "bias", static_cast<std::int64_t>(e)));
  return wrong;
}

SavedCheckpoint save(const std::string& run, const std::vector<std::unique_ptr<Model>>& ranks) {
  const std::int64_t bytes = total_bytes(state_slices(*ranks[0], true));
  const CheckpointDraft draft = begin_checkpoint(run, 1, static_cast<int>(ranks.size()), bytes);
  std::vector<std::string> reports;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    reports.push_back(write_part(draft, static_cast<int>(r), state_slices(*ranks[r], true, r == 0)));
  return publish_checkpoint(draft, reports, {}, nlohmann::json::array(), {}, false);
}

TEST(StateSlices, OneProcessHoldsWholeTensors) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Model model(small_config(), dtype, true);
    const auto slices = state_slices(model, true);
    for (const TensorSlice& s : slices) {
      EXPECT_EQ(s.extent, s.shape) << s.name;
      EXPECT_EQ(s.offset, std::vector<std::int64_t>(s.shape.size(), 0)) << s.name;
    }
    const std::size_t roles = dtype == DType::kF32 ? 3 : 4;
    EXPECT_EQ(slices.size(), roles * model.params().all().size() + 1);
    EXPECT_EQ(state_slices(model, false).size(), model.params().all().size() + 1);
  }
}

TEST(StateSlices, OfAllRanksMakeEveryTensorOnce) {
  for (const Mesh& mesh : meshes()) {
    SCOPED_TRACE(mesh.name);
    const auto ranks = ranks_of(mesh, DType::kF32);
    std::map<std::string, std::vector<Box>> boxes;
    std::map<std::string, std::vector<std::int64_t>> shapes;
    for (std::size_t r = 0; r < ranks.size(); ++r) {
      std::map<std::string, int> named;
      for (const TensorSlice& s : state_slices(*ranks[r], true, r == 0)) {
        const std::string key = s.role + ":" + s.name;
        ++named[key];
        shapes[key] = s.shape;
        if (elements_of(s.extent) > 0) {
          boxes[key].push_back({s.offset, s.extent});
        } else {
          EXPECT_EQ(s.offset, std::vector<std::int64_t>(s.shape.size(), 0)) << key;
        }
      }
      EXPECT_EQ(named.size(), 3 * ranks[r]->params().all().size() + 1) << "every rank names every tensor";
      // First part, whole experts, last part, for each run of experts: at most two partial ones in all.
      for (const auto& [key, count] : named) EXPECT_LE(count, 5) << key;
    }
    for (const auto& [key, shape] : shapes) EXPECT_EQ(coverage_fault(shape, boxes[key]), "") << key;
  }
}

TEST(StateSlices, ExpertsThatFollowEachOtherAreOneBox) {
  const Mesh mesh{"", 1, 1, {3, 0, 1, 4, 2}};
  Model model(small_config(), DType::kF32, true, layout_of(mesh, 0));
  std::vector<std::vector<std::int64_t>> offsets, extents;
  for (const TensorSlice& s : state_slices(model, false))
    if (s.name == "layers.1.experts.down.weight") offsets.push_back(s.offset), extents.push_back(s.extent);
  EXPECT_EQ(offsets, (std::vector<std::vector<std::int64_t>>{{3, 0, 0}, {0, 0, 0}, {4, 0, 0}, {2, 0, 0}}));
  EXPECT_EQ(extents, (std::vector<std::vector<std::int64_t>>{{1, 6, 3}, {2, 6, 3}, {1, 6, 3}, {1, 6, 3}}));
}

void check_load(const std::string& path, const Mesh& mesh, DType dtype) {
  for (const auto& rank : ranks_of(mesh, dtype)) {
    set_all(*rank, false);
    ASSERT_NE(num_wrong(*rank), 0);
    load_checkpoint(open_checkpoint(path), state_slices(*rank, true));
    ASSERT_EQ(num_wrong(*rank), 0) << path << " -> " << mesh.name;
  }
}

TEST_F(CheckpointTest, EveryMeshLoadsOnEveryOther) {
  std::string digest;
  for (const Mesh& from : meshes()) {
    const auto ranks = ranks_of(from, DType::kF32);
    for (const auto& rank : ranks) set_all(*rank, true);
    const SavedCheckpoint saved = save(run_ + from.name, ranks);
    if (digest.empty()) digest = saved.digest;
    EXPECT_EQ(saved.digest, digest) << from.name;
    for (const Mesh& to : meshes())
      if (to.size() <= 7) check_load(saved.path, to, DType::kF32);
  }
}

TEST_F(CheckpointTest, MeshesLoadBf16WithMasters) {
  const std::vector<Mesh> all = meshes();
  for (std::size_t i = 0; i + 1 < all.size(); ++i) {
    const auto ranks = ranks_of(all[i], DType::kBF16);
    for (const auto& rank : ranks) set_all(*rank, true);
    check_load(save(run_ + all[i].name, ranks).path, all[i + 1], DType::kBF16);
  }
}

TEST_F(CheckpointTest, WeightsAloneAreLoadedForEvaluation) {
  const Mesh mesh = meshes()[4];
  const auto ranks = ranks_of(mesh, DType::kBF16);
  for (const auto& rank : ranks) set_all(*rank, true);
  const std::string path = save(run_, ranks).path;
  Model model(small_config(), DType::kBF16, false);
  load_checkpoint(open_checkpoint(path), state_slices(model, false), {"master", "m", "v"});
  for (const Param& p : model.params().all())
    for (std::int64_t i = 0; i < p.num_local(); ++i)
      ASSERT_EQ(static_cast<BF16*>(p.weight.data)[i].bits, to_bf16(truth(p.spec.name, "weight", i)).bits) << p.spec.name;
}

}  // namespace
}  // namespace moe
