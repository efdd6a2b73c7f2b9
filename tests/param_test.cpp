// The part of a model that a layout gives a rank: cuts, shards, runs, initial values, and AdamW on shards.
#include "lib/tensor/param.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "lib/base/rng.h"
#include "tests/compare.h"

namespace moe {
namespace {

// Dimensions that no mesh divides; a vector, a matrix, a tensor of rank 3, experts, all ones.
const std::vector<ParamSpec> kSpecs{{"embedding.weight", {29, 13}, 0.5f, false, true},
                                    {"layers.0.norm.weight", {13}},
                                    {"layers.0.cube.weight", {3, 5, 2}, 0.1f},
                                    {"layers.0.experts.up.weight", {7, 6, 13}, 0.2f, true},
                                    {"layers.0.experts.down.weight", {7, 13, 3}, 0.3f, true}};
const std::vector<int> kOrder{4, 5, 6, 0, 3, 2, 1};

struct LayoutCase {
  int shard, ep;
  std::vector<int> order = kOrder;
};
const LayoutCase kCases[] = {{1, 1}, {2, 1}, {1, 3}, {4, 1}, {3, 2}, {7, 1}, {1, 9}, {2, 9}, {23, 3}};

// Layouts of all ranks of one replica.
std::vector<ParamLayout> layouts(const LayoutCase& c, int zero) {
  std::vector<ParamLayout> list;
  const auto n = static_cast<std::int64_t>(c.order.size());
  for (int rank = 0; rank < c.shard * c.ep; ++rank) {
    const Cut part{rank % c.ep, c.ep};
    ParamLayout layout{.dense = {rank, c.shard * c.ep}, .expert = {rank / c.ep, c.shard}, .zero = zero};
    for (auto i = part.begin(n); i < part.end(n); ++i)
      layout.layer2experts[0].push_back({c.order[static_cast<std::size_t>(i)]});
    list.push_back(layout);
  }
  return list;
}

std::string text(const LayoutCase& c, int zero) {
  return "shard " + std::to_string(c.shard) + " ep " + std::to_string(c.ep) + " zero " + std::to_string(zero);
}

struct OwnedStore {
  Arena arena{std::size_t{1} << 20};
  ParamStore store;
  OwnedStore(DType dtype, bool training, const ParamLayout& layout) : store(arena, kSpecs, dtype, training, layout) {}
};

float element(const void* data, DType dtype, std::int64_t i) {
  return dtype == DType::kF32 ? static_cast<const float*>(data)[i] : to_float(static_cast<const BF16*>(data)[i]);
}

TEST(Cut, PartsAreNeighboursAndDifferByAtMostOne) {
  for (const std::int64_t n : {0, 1, 6, 7, 29})
    for (const int count : {1, 2, 3, 7, 31}) {
      std::int64_t end = 0;
      for (int i = 0; i < count; ++i) {
        const Cut cut{i, count};
        EXPECT_EQ(cut.begin(n), end);
        end = cut.end(n);
        EXPECT_GE(end - cut.begin(n), n / count);
        EXPECT_LE(end - cut.begin(n), (n + count - 1) / count);
      }
      EXPECT_EQ(end, n);
    }
}

// The acceptance of every layout: the runs of all ranks touch each element of each tensor once, in shards and tensors.
TEST(ParamStore, RunsOfAllRanksCoverEveryElementOnce) {
  for (const LayoutCase& c : kCases) {
    SCOPED_TRACE(text(c, 3));
    std::map<std::string, std::vector<int>> seen;
    for (const ParamSpec& spec : kSpecs) seen[spec.name].resize(static_cast<std::size_t>(spec.num_elements()));
    for (const ParamLayout& layout : layouts(c, 3)) {
      Arena measuring(0);
      const ParamStore store(measuring, kSpecs, DType::kF32, true, layout);
      for (const Param& p : store.all()) {
        std::int64_t at = 0;
        for (const ShardRun& run : store.runs(p)) {
          EXPECT_EQ(run.at, at);
          EXPECT_GT(run.count, 0);
          at += run.count;
          for (std::int64_t i = 0; i < run.count; ++i) ++seen[p.spec.name].at(static_cast<std::size_t>(run.global + i));
        }
        EXPECT_EQ(at, p.shard_size());
      }
    }
    for (const auto& [name, counts] : seen) EXPECT_EQ(counts, std::vector<int>(counts.size(), 1)) << name;
  }
}

TEST(ParamStore, RunsOfPermutedExpertsJoinNeighbours) {
  Arena measuring(0);
  ParamLayout layout = ParamLayout::whole(7);
  layout.layer2experts[0].clear();
  for (const int e : kOrder) layout.layer2experts[0].push_back({e});
  const ParamStore store(measuring, kSpecs, DType::kF32, false, layout);
  const std::vector<ShardRun> runs = store.runs(store.find("layers.0.experts.down.weight"));
  const std::int64_t per_expert = 13 * 3;
  const std::vector<std::vector<std::int64_t>> want{{0, 4 * per_expert, 3 * per_expert},  // 4 5 6
                                                    {3 * per_expert, 0, per_expert},
                                                    {4 * per_expert, 3 * per_expert, per_expert},
                                                    {5 * per_expert, 2 * per_expert, per_expert},
                                                    {6 * per_expert, per_expert, per_expert}};
  ASSERT_EQ(runs.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i)
    EXPECT_EQ((std::vector<std::int64_t>{runs[i].at, runs[i].global, runs[i].count}), want[i]) << i;
}

TEST(ParamStore, InitialValuesDoNotDependOnTheLayout) {
  for (const LayoutCase& c : kCases)
    for (const int zero : {1, 2, 3})
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        SCOPED_TRACE(text(c, zero) + " " + name_of(dtype));
        for (const ParamLayout& layout : layouts(c, zero)) {
          OwnedStore part(dtype, true, layout);
          part.store.initialize(5);
          for (const Param& p : part.store.all())
            for (const ShardRun& run : part.store.runs(p))
              for (std::int64_t i = 0; i < run.count; ++i) {
                const auto global = static_cast<std::uint64_t>(run.global + i);
                const float want = p.spec.init_std == 0 ? 1.0f : p.spec.init_std * Rng(5, p.spec.name).normal(global);
                ASSERT_EQ(p.master[run.at + i], want) << p.spec.name << " " << global;
                ASSERT_EQ(element(p.weight_shard, dtype, run.at + i), dtype == DType::kF32 ? want : to_float(to_bf16(want)));
              }
        }
      }
}

// What is whole lies around the shard; what is sharded has no whole; one part shares everything.
TEST(ParamStore, ShardsLieInTheWholeWhereThereIsOne) {
  for (const LayoutCase& c : kCases)
    for (const int zero : {1, 2, 3})
      for (const ParamLayout& layout : layouts(c, zero)) {
        SCOPED_TRACE(text(c, zero));
        OwnedStore part(DType::kBF16, true, layout);
        for (const Param& p : part.store.all()) {
          const bool whole_weight = !p.is_cut || zero < 3, whole_grad = !p.is_cut || zero < 2;
          ASSERT_EQ(p.weight.data != nullptr, whole_weight);
          ASSERT_EQ(p.grad.data != nullptr, whole_grad);
          const std::int64_t begin = p.shard_begin * p.shard_cols;
          EXPECT_TRUE(!whole_weight || p.weight_shard == p.weight.bf16() + begin);
          EXPECT_TRUE(!whole_grad || p.grad_shard == p.grad.f32() + begin);
          EXPECT_LE(begin + p.shard_size(), p.num_local());
          EXPECT_TRUE(p.is_cut || p.shard_size() == p.num_local());
        }
      }
}

TEST(ParamStore, UncutFp32WeightIsItsOwnMaster) {
  OwnedStore one(DType::kF32, true, ParamLayout::whole(7));
  for (const Param& p : one.store.all()) EXPECT_EQ(p.master, p.weight.f32());
}

TEST(ParamStore, MeasuringCountsWhatIsTaken) {
  for (const LayoutCase& c : kCases)
    for (const int zero : {1, 2, 3}) {
      const ParamLayout layout = layouts(c, zero).back();
      Arena measuring(0);
      const ParamStore store(measuring, kSpecs, DType::kBF16, true, layout);
      EXPECT_EQ(measuring.used_bytes(), OwnedStore(DType::kBF16, true, layout).arena.used_bytes()) << text(c, zero);
    }
}

// Gradients, as a function of the element, then two steps.
void train(OwnedStore& part) {
  Stream stream(1);
  for (std::int64_t step = 1; step <= 2; ++step) {
    for (Param& p : part.store.all())
      for (const ShardRun& run : part.store.runs(p))
        for (std::int64_t i = 0; i < run.count; ++i)
          p.grad_shard[run.at + i] = Rng(9, p.spec.name).normal(static_cast<std::uint64_t>(run.global + i + step * 100000));
    const auto tensors = part.store.adamw_tensors(0.1f);
    cpu_kernels().adamw.step(stream, tensors, {.lr = 0.01f, .step = step, .grad_scale = 0.5f});
  }
}

TEST(ParamStore, AdamWOnShardsIsAdamWOnTheWhole) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    OwnedStore whole(dtype, true, ParamLayout::whole(7));
    whole.store.initialize(5);
    train(whole);
    for (const LayoutCase& c : kCases) {
      SCOPED_TRACE(text(c, 3));
      for (const ParamLayout& layout : layouts(c, 3)) {
        OwnedStore part(dtype, true, layout);
        part.store.initialize(5);
        train(part);
        for (const Param& p : part.store.all()) {
          const Param& all = whole.store.find(p.spec.name);
          for (const ShardRun& run : part.store.runs(p)) {
            const auto n = static_cast<std::size_t>(run.count);
            EXPECT_TRUE(same_bits({p.master + run.at, n}, {all.master + run.global, n})) << p.spec.name;
            EXPECT_TRUE(same_bits({p.m.f32() + run.at, n}, {all.m.f32() + run.global, n})) << p.spec.name;
            EXPECT_TRUE(same_bits({p.v.f32() + run.at, n}, {all.v.f32() + run.global, n})) << p.spec.name;
            for (std::int64_t i = 0; i < run.count; ++i)
              ASSERT_EQ(element(p.weight_shard, dtype, run.at + i), element(all.weight_shard, dtype, run.global + i));
          }
        }
      }
    }
  }
}

TEST(ParamStore, FindNamesWhatIsMissing) {
  OwnedStore one(DType::kF32, false, ParamLayout::whole(7));
  try {
    one.store.find("layers.9.nothing");
    FAIL();
  } catch (const std::out_of_range& e) {
    EXPECT_NE(std::string(e.what()).find("layers.9.nothing"), std::string::npos);
  }
}

}  // namespace
}  // namespace moe
