// Units on thread ranks of many meshes: gathered weights are the whole model's, gradients are the ordered sums of what the
// ranks added, and a step of the optimizer on shards is the step on the whole. Sizes that no mesh divides; one tensor has
// one row; there are fewer experts than ranks.
#include "lib/parallel/units.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "tests/compare.h"
#include "tests/ranks.h"

namespace moe {
namespace {

const std::vector<int> kExpertOrder{4, 5, 6, 0, 3, 2, 1};
constexpr int kNumLayers = 3;

std::vector<ParamSpec> specs(bool tied) {
  std::vector<ParamSpec> list{{"embedding.weight", {29, 13}, 0.5f, false, true},
                              {"layers.0.norm.weight", {13}},
                              {"layers.0.mlp.weight", {7, 13}, 0.1f}};
  for (const std::string layer : {"layers.1.", "layers.2."}) {
    list.push_back({layer + "norm.weight", {7}});
    list.push_back({layer + "row.weight", {1, 5}, 0.3f});
    list.push_back({layer + "router.weight", {7, 13}, 0.1f});
    list.push_back({layer + "experts.up.weight", {7, 6, 13}, 0.2f, true});
    list.push_back({layer + "experts.down.weight", {7, 13, 3}, 0.3f, true});
  }
  list.push_back({"final_norm.weight", {13}});
  if (!tied) list.push_back({"head.weight", {29, 13}, 0.4f});
  return list;
}

// A store, the units over it, and the memory of both.
struct Part {
  Arena arena{std::size_t{1} << 20};
  ParamLayout layout;
  ParamStore store;
  Units units;

  Part(TestRank& rank, DType dtype, int zero, bool tied = false)
      : layout(rank.layout(kExpertOrder, zero)),
        store(arena, specs(tied), dtype, true, layout),
        units(store, rank.unit_comms(), rank.lane, true, rank.lane_env()) {
    store.initialize(5);
  }

  std::vector<int> forward_order() const {
    std::vector<int> order{units.embedding()};
    for (int i = 0; i < kNumLayers; ++i) order.insert(order.end(), {units.dense(i), units.experts(i)});
    order.push_back(units.head());
    return order;
  }
  bool belongs(const Param& p, int unit) const {
    if (p.spec.name == "embedding.weight") return unit == units.embedding();
    if (!p.spec.name.starts_with("layers.")) return unit == units.head();
    const int layer = p.spec.name[7] - '0';
    return unit == (p.spec.is_expert ? units.experts(layer) : units.dense(layer));
  }
  // Place in the logical tensor of element i of what this rank's kernels see.
  std::int64_t global_of(const Param& p, std::int64_t i) const {
    if (!p.spec.is_expert) return i;
    const std::int64_t per_expert = p.spec.shape[1] * p.spec.shape[2];
    return layout.layer2experts[0][static_cast<std::size_t>(i / per_expert)].id * per_expert + i % per_expert;
  }
};

float element(const void* data, DType dtype, std::int64_t i) {
  return dtype == DType::kF32 ? static_cast<const float*>(data)[i] : to_float(static_cast<const BF16*>(data)[i]);
}

// The model on one rank without units: initial values, two steps of AdamW.
struct Whole {
  Arena arena{std::size_t{1} << 20};
  ParamStore store;
  explicit Whole(DType dtype, bool tied = false) : store(arena, specs(tied), dtype, true, ParamLayout::whole(7)) {
    omp_set_num_threads(1);  // idle threads of a team would take the processors that the ranks need
    store.initialize(5);
  }
};

void adamw(ParamStore& store, std::int64_t step) {
  Stream stream(1);
  cpu_kernels().adamw.step(stream, store.adamw_tensors(0.1f), {.lr = 0.01f, .step = step, .grad_scale = 0.25f});
}

void check_unit(const Part& part, int unit, const ParamStore& whole) {
  for (const Param& p : part.store.all()) {
    if (!part.belongs(p, unit)) continue;
    if (!p.weight.data && p.num_local() > 0) throw std::logic_error(p.spec.name + " is not there");
    const Param& want = whole.find(p.spec.name);
    std::int64_t wrong = 0;
    for (std::int64_t i = 0; i < p.num_local(); ++i)
      wrong +=
          !(element(p.weight.data, p.weight.dtype, i) == element(want.weight.data, p.weight.dtype, part.global_of(p, i)));
    EXPECT_EQ(wrong, 0) << p.spec.name;
  }
}

// All units in this order, the next one on its way while one is in use.
void check_weights(Part& part, const std::vector<int>& order, const ParamStore& whole) {
  for (std::size_t i = 0; i < order.size(); ++i) {
    part.units.use(order[i]);
    if (i + 1 < order.size()) part.units.prefetch(order[i + 1]);
    check_unit(part, order[i], whole);
    part.units.release(order[i]);
    if (part.layout.zero < 3) continue;
    for (const Param& p : part.store.all())
      EXPECT_FALSE(p.is_cut && part.belongs(p, order[i]) && p.weight.data) << p.spec.name;
  }
}

struct MeshCase {
  MeshShape mesh;
  int zero;
  DType dtype;
};
std::string text(const MeshCase& c) {
  return std::to_string(c.mesh.replicate) + "x" + std::to_string(c.mesh.shard) + "x" + std::to_string(c.mesh.ep) + " zero " +
         std::to_string(c.zero) + " " + name_of(c.dtype);
}
// Zero 1 and 3 on every mesh; zero 2, which gathers as 1 and reduces as 3, and bf16 on some.
std::vector<MeshCase> mesh_cases() {
  std::vector<MeshCase> list;
  for (const MeshShape& mesh : {MeshShape{1, 1, 1}, MeshShape{1, 2, 1}, MeshShape{1, 1, 2}, MeshShape{1, 4, 1},
                                MeshShape{2, 1, 1}, MeshShape{2, 1, 2}, MeshShape{1, 3, 2}, MeshShape{2, 2, 2},
                                MeshShape{1, 7, 1}, MeshShape{3, 2, 1}, MeshShape{1, 1, 9}})
    for (const int zero : {1, 2, 3}) {
      const bool some = mesh.shard * mesh.ep == 2 || mesh.shard == 3;
      if (zero != 2 || some) list.push_back({mesh, zero, DType::kF32});
      if (zero != 2 && some && mesh.replicate == 1) list.push_back({mesh, zero, DType::kBF16});
    }
  return list;
}

TEST(Units, GatheredWeightsAreTheWholeModels) {
  for (const MeshCase& c : mesh_cases()) {
    SCOPED_TRACE(text(c));
    const Whole whole(c.dtype);
    run_mesh_ranks(c.mesh, [&](TestRank& rank) {
      Part part(rank, c.dtype, c.zero);
      EXPECT_EQ(part.units.experts(0), -1);
      std::vector<int> order = part.forward_order();
      check_weights(part, order, whole.store);
      std::reverse(order.begin(), order.end());
      check_weights(part, order, whole.store);
    });
  }
}

// What a rank of the world adds to an element in a micro-batch. Integers: sums are exact in any order. Fractions of many
// sizes: only the promised order gives the bits.
using Contribution = float (*)(int rank, const std::string& name, std::int64_t element, int micro_batch);
std::uint64_t mixed(int rank, const std::string& name, std::int64_t element, int micro_batch) {
  const auto index = static_cast<std::uint64_t>((element * 64 + rank) * 8 + micro_batch) + name.size() * 1000003;
  return (index * 0x9e3779b97f4a7c15ull ^ index >> 3) * 0xbf58476d1ce4e5b9ull >> 40;  // 24 bits
}
float whole_number(int rank, const std::string& name, std::int64_t element, int micro_batch) {
  return static_cast<float>(static_cast<int>(mixed(rank, name, element, micro_batch) % 41) - 20);
}
float fraction(int rank, const std::string& name, std::int64_t element, int micro_batch) {
  const auto bits = static_cast<std::int64_t>(mixed(rank, name, element, micro_batch)) - (1 << 23);
  return static_cast<float>(bits) * (rank % 2 == 0 ? 1e-7f : 1e-3f);
}

// Backward of micro-batches; each unit gets this rank's contribution where kernels would add theirs.
void add_gradients(Part& part, int world_rank, int num_micro_batches, Contribution contribution) {
  std::vector<int> order = part.forward_order();
  std::reverse(order.begin(), order.end());
  for (int b = 0; b < num_micro_batches; ++b)
    for (const int unit : order) {
      part.units.begin_gradients(unit);
      for (const Param& p : part.store.all())
        for (std::int64_t i = 0; part.belongs(p, unit) && i < p.num_local(); ++i)
          p.grad.f32()[i] += contribution(world_rank, p.spec.name, part.global_of(p, i), b);
      part.units.reduce_gradients(unit, b + 1 == num_micro_batches);
    }
  part.units.finish_gradients();
}

// The sum as units.h promises it: over a group in the order of its ranks, micro-batch after micro-batch (zero 1 and groups
// of one: micro-batches first), then over the replicas.
float expected_sum(const TestRank& rank, const ParamSpec& spec, std::int64_t element, int zero, int num_micro_batches,
                   Contribution contribution) {
  const int shard = rank.shape.shard, ep = rank.shape.ep, group_size = spec.is_expert ? shard : shard * ep;
  float sum = 0;
  for (int replica = 0; replica < rank.shape.replicate; ++replica) {
    const auto world_rank = [&](int r) { return replica * shard * ep + (spec.is_expert ? r * ep + rank.place.ep : r); };
    float of_replica = 0;
    if (zero == 1 || group_size == 1) {
      for (int r = 0; r < group_size; ++r) {
        float of_rank = 0;
        for (int b = 0; b < num_micro_batches; ++b) of_rank += contribution(world_rank(r), spec.name, element, b);
        of_replica = r == 0 ? of_rank : of_replica + of_rank;
      }
    } else {
      for (int b = 0; b < num_micro_batches; ++b) {
        float of_batch = contribution(world_rank(0), spec.name, element, b);
        for (int r = 1; r < group_size; ++r) of_batch += contribution(world_rank(r), spec.name, element, b);
        of_replica += of_batch;
      }
    }
    sum = replica == 0 ? of_replica : sum + of_replica;
  }
  return sum;
}

void check_shards(const TestRank& rank, const Part& part, int num_micro_batches, Contribution contribution) {
  for (const Param& p : part.store.all()) {
    std::int64_t wrong = 0;
    for (const ShardRun& run : part.store.runs(p))
      for (std::int64_t i = 0; i < run.count; ++i)
        wrong += !(p.grad_shard[run.at + i] ==
                   expected_sum(rank, p.spec, run.global + i, part.layout.zero, num_micro_batches, contribution));
    EXPECT_EQ(wrong, 0) << p.spec.name;
  }
}

TEST(Units, GradientsAreOrderedSumsOverRanksMicroBatchesAndReplicas) {
  for (const MeshCase& c : mesh_cases()) {
    if (c.dtype == DType::kBF16) continue;  // gradients are fp32 either way
    SCOPED_TRACE(text(c));
    run_mesh_ranks(c.mesh, [&](TestRank& rank) {
      Part part(rank, c.dtype, c.zero);
      const int me = (rank.place.replicate * c.mesh.shard + rank.place.shard) * c.mesh.ep + rank.place.ep;
      add_gradients(part, me, 2, fraction);
      check_shards(rank, part, 2, fraction);
      part.units.clear_gradients();
      for (const Param& p : part.store.all()) {
        for (std::int64_t i = 0; i < p.shard_size(); ++i) EXPECT_EQ(p.grad_shard[i], 0);
        for (std::int64_t i = 0; p.grad.data && i < p.num_local(); ++i) EXPECT_EQ(p.grad.f32()[i], 0);
      }
      add_gradients(part, me, 1, whole_number);
      check_shards(rank, part, 1, whole_number);
    });
  }
}

// Sum over all ranks of a model's total gradient, in the store of one rank.
void fill_total(ParamStore& whole, int num_ranks, int ep, int num_micro_batches) {
  for (Param& p : whole.all())
    for (std::int64_t i = 0; i < p.num_local(); ++i) {
      const std::int64_t expert = p.spec.is_expert ? i / (p.spec.shape[1] * p.spec.shape[2]) : 0;
      std::int64_t place = 0;
      while (kExpertOrder[static_cast<std::size_t>(place)] != expert) ++place;
      int owner = 0;
      while (Cut{owner, ep}.end(7) <= place) ++owner;
      for (int r = 0; r < num_ranks; ++r)
        for (int b = 0; b < num_micro_batches; ++b)
          if (!p.spec.is_expert || r % ep == owner) p.grad.f32()[i] += whole_number(r, p.spec.name, i, b);
    }
}

double sum_of_squares(const ParamStore& store) {
  double sum = 0;
  for (const Param& p : store.all())
    for (std::int64_t i = 0; i < p.shard_size(); ++i) sum += double{p.grad_shard[i]} * double{p.grad_shard[i]};
  return sum;
}

// Two steps: the squares of all shards of a replica are those of the whole gradient (nothing is counted twice), the
// optimizer on shards gives the bits of the optimizer on the whole, and what is gathered next is new. Gradients are left
// zero.
TEST(Units, StepsOnShardsAreStepsOnTheWhole) {
  for (const MeshCase& c : mesh_cases()) {
    SCOPED_TRACE(text(c));
    std::vector<std::unique_ptr<Whole>> after;  // of each step
    std::vector<double> squares;
    for (int step = 1; step <= 2; ++step) {
      after.push_back(std::make_unique<Whole>(c.dtype));
      squares.clear();
      for (int s = 1; s <= step; ++s) {
        fill_total(after.back()->store, c.mesh.size(), c.mesh.ep, 2);
        squares.push_back(sum_of_squares(after.back()->store));
        adamw(after.back()->store, s);
      }
    }
    std::vector<double> sums(static_cast<std::size_t>(c.mesh.size()) * 2);
    run_mesh_ranks(c.mesh, [&](TestRank& rank) {
      Part part(rank, c.dtype, c.zero);
      const int me = (rank.place.replicate * c.mesh.shard + rank.place.shard) * c.mesh.ep + rank.place.ep;
      const std::vector<int> order = part.forward_order();
      for (int step = 1; step <= 2; ++step) {
        for (const int unit : order) {  // gathered and old by the end of the step
          part.units.use(unit);
          part.units.release(unit);
        }
        add_gradients(part, me, 2, whole_number);
        sums[static_cast<std::size_t>((step - 1) * c.mesh.size() + me)] = sum_of_squares(part.store);
        adamw(part.store, step);
        part.units.weights_changed();
        check_weights(part, order, after[static_cast<std::size_t>(step - 1)]->store);
      }
    });
    const int replica_size = c.mesh.shard * c.mesh.ep;
    for (int step = 0; step < 2; ++step)
      for (int replica = 0; replica < c.mesh.replicate; ++replica) {
        double sum = 0;
        for (int r = 0; r < replica_size; ++r)
          sum += sums[static_cast<std::size_t>(step * c.mesh.size() + replica * replica_size + r)];
        EXPECT_EQ(sum, squares[static_cast<std::size_t>(step)]);
      }
  }
}

// The head's share of a tied embedding is reduced before the embedding's own; only the second goes over the replicas. The
// embedding and the final norm are in use together.
TEST(Units, TiedEmbeddingIsReducedTwice) {
  for (const MeshCase& c : mesh_cases()) {
    if (c.dtype == DType::kBF16) continue;
    SCOPED_TRACE(text(c));
    const Whole whole(c.dtype, true);
    run_mesh_ranks(c.mesh, [&](TestRank& rank) {
      Part part(rank, c.dtype, c.zero, true);
      Units& units = part.units;
      const int me = (rank.place.replicate * c.mesh.shard + rank.place.shard) * c.mesh.ep + rank.place.ep;
      units.use(units.embedding());
      units.use(units.head());
      check_unit(part, units.head(), whole.store);
      check_unit(part, units.embedding(), whole.store);
      units.release(units.head());
      units.release(units.embedding());
      const Param& p = part.store.find("embedding.weight");
      for (int b = 0; b < 2; ++b) {
        units.begin_gradients(units.head());
        units.begin_gradients(units.embedding());
        for (std::int64_t i = 0; i < p.num_local(); ++i) p.grad.f32()[i] += whole_number(me, p.spec.name, i, b);
        units.reduce_gradients(units.head(), b == 1);
        units.reduce_gradients(units.embedding(), b == 1);
      }
      units.finish_gradients();
      for (std::int64_t i = 0; i < p.shard_size(); ++i) {
        const std::int64_t at = p.shard_begin * p.shard_cols + i;
        EXPECT_EQ(p.grad_shard[i], expected_sum(rank, p.spec, at, c.zero, 2, whole_number));
      }
    });
  }
}

}  // namespace
}  // namespace moe
