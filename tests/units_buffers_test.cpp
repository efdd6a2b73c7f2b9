// The buffers of units: which calls gather, which buffer goes, what misuse says, and how many bytes they take.
#include <gtest/gtest.h>

#include <stdexcept>

#include "tests/ranks.h"

namespace moe {
namespace {

std::vector<ParamSpec> specs() {
  std::vector<ParamSpec> list{{"embedding.weight", {29, 13}, 0.5f, false, true}};
  for (const std::string layer : {"layers.0.", "layers.1.", "layers.2.", "layers.3."}) {
    list.push_back({layer + "norm.weight", {13}});
    list.push_back({layer + "experts.up.weight", {3, 5, 13}, 0.2f, true});
  }
  list.push_back({"final_norm.weight", {13}});
  list.push_back({"head.weight", {29, 13}, 0.4f});
  return list;
}

// Passes on to another group and counts the batches that were started.
class CountingComm : public Comm {
 public:
  explicit CountingComm(Comm& comm) : comm_(comm) {}
  int rank() const override { return comm_.rank(); }
  int size() const override { return comm_.size(); }
  std::string name_of(int rank) const override { return comm_.name_of(rank); }
  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    ++num_batches;
    return comm_.start(what, sends, receives);
  }
  std::unique_ptr<Comm> split(int color, int key) override { return comm_.split(color, key); }

  int num_batches = 0;

 private:
  Comm& comm_;
};

struct Counted {
  TestRank& rank;
  CountingComm dense, expert;
  Arena arena{std::size_t{1} << 20};
  ParamStore store;
  Units units;

  Counted(TestRank& r, int zero)
      : rank(r),
        dense(*r.dense),
        expert(*r.expert),
        store(arena, specs(), DType::kF32, true, r.layout({0, 1, 2}, zero)),
        units(store, {.dense = &dense, .expert = &expert}, r.lane, true, r.lane_env()) {
    store.initialize(5);
  }
  // Gathers since the last call; r.lane has done all it was given.
  int num_gathers() {
    rank.lane.wait_all();
    const int n = dense.num_batches + expert.num_batches;
    dense.num_batches = expert.num_batches = 0;
    return n;
  }
  void touch(int unit) {
    units.use(unit);
    units.release(unit);
  }
};

constexpr MeshShape kTwo{1, 2, 1};

TEST(UnitBuffers, ReleasedUnitsStayUntilTheirBufferIsWanted) {
  run_mesh_ranks(kTwo, [](TestRank& rank) {
    Counted c(rank, 3);
    const auto d = [&](int layer) { return c.units.dense(layer); };
    c.touch(d(0));
    c.touch(d(1));
    EXPECT_EQ(c.num_gathers(), 2);
    c.touch(d(0));  // still there; now dense(1) is the one released longest ago
    EXPECT_EQ(c.num_gathers(), 0);
    c.touch(d(2));
    EXPECT_EQ(c.num_gathers(), 1);
    c.touch(d(0));
    EXPECT_EQ(c.num_gathers(), 0);
    c.touch(d(1));
    EXPECT_EQ(c.num_gathers(), 1);
    c.touch(c.units.experts(0));  // other buffers
    c.touch(d(1));
    EXPECT_EQ(c.num_gathers(), 1);
    c.units.weights_changed();
    c.touch(d(1));
    EXPECT_EQ(c.num_gathers(), 1);
  });
}

TEST(UnitBuffers, PrefetchTakesFreeBuffersOnly) {
  run_mesh_ranks(kTwo, [](TestRank& rank) {
    Counted c(rank, 3);
    const auto d = [&](int layer) { return c.units.dense(layer); };
    c.units.prefetch(-1);
    c.units.prefetch(d(0));
    c.units.prefetch(d(0));
    c.units.prefetch(d(1));
    EXPECT_EQ(c.num_gathers(), 2);
    c.units.prefetch(d(2));  // both buffers are promised
    EXPECT_EQ(c.num_gathers(), 0);
    c.units.release(d(1));  // without use
    c.units.prefetch(d(2));
    EXPECT_EQ(c.num_gathers(), 1);
    c.units.use(d(0));
    c.units.use(d(3));  // nothing free but what is only promised
    EXPECT_EQ(c.num_gathers(), 1);
    c.units.release(d(2));  // has lost its buffer: passed over
    EXPECT_NE(c.store.find("layers.0.norm.weight").weight.data, nullptr);
    EXPECT_NE(c.store.find("layers.3.norm.weight").weight.data, nullptr);
  });
}

TEST(UnitBuffers, AUnitStaysUntilItsLastUserReleasesIt) {
  run_mesh_ranks(kTwo, [](TestRank& rank) {
    Counted c(rank, 3);
    const Param& p = c.store.find("layers.0.norm.weight");
    c.units.use(c.units.dense(0));
    c.units.use(c.units.dense(0));
    c.units.release(c.units.dense(0));
    EXPECT_NE(p.weight.data, nullptr);
    c.units.release(c.units.dense(0));
    EXPECT_EQ(p.weight.data, nullptr);
  });
}

TEST(UnitBuffers, WholeWeightsAreGatheredOnceAStep) {
  for (const int zero : {1, 2})
    run_mesh_ranks(kTwo, [&](TestRank& rank) {
      Counted c(rank, zero);
      for (int step = 0; step < 2; ++step) {
        for (int pass = 0; pass < 3; ++pass)
          for (int layer = 0; layer < 4; ++layer) c.touch(c.units.dense(layer));
        EXPECT_EQ(c.num_gathers(), 4);
        c.units.weights_changed();
      }
    });
}

TEST(UnitBuffers, NothingIsSentWhereNothingIsCut) {
  run_mesh_ranks({1, 1, 2}, [](TestRank& rank) {  // experts are whole
    Counted c(rank, 3);
    c.touch(c.units.experts(0));
    c.units.begin_gradients(c.units.experts(0));
    c.units.reduce_gradients(c.units.experts(0), true);
    c.units.finish_gradients();
    EXPECT_EQ(c.num_gathers(), 0);
  });
}

TEST(UnitBuffers, MisuseIsNamed) {
  run_mesh_ranks(kTwo, [](TestRank& rank) {
    Counted c(rank, 3);
    c.units.use(c.units.dense(0));
    c.units.use(c.units.dense(1));
    EXPECT_THROW(c.units.use(c.units.dense(2)), std::logic_error);
    EXPECT_THROW(c.units.weights_changed(), std::logic_error);
    EXPECT_THROW(c.units.reduce_gradients(c.units.dense(0), true), std::logic_error);
    c.units.begin_gradients(c.units.dense(0));
    c.units.begin_gradients(c.units.dense(0));
    c.units.begin_gradients(c.units.dense(1));
    EXPECT_THROW(c.units.begin_gradients(c.units.dense(2)), std::logic_error);
    EXPECT_THROW(c.units.finish_gradients(), std::logic_error);
  });
}

TEST(UnitBuffers, GroupsMustCutAsTheLayoutDoes) {
  run_mesh_ranks(kTwo, [](TestRank& rank) {
    Arena arena(std::size_t{1} << 20);
    ParamStore store(arena, specs(), DType::kF32, true, rank.layout({0, 1, 2}, 3));
    EXPECT_THROW(Units(store, {.dense = rank.dense.get()}, rank.lane, true, rank.lane_env()), std::logic_error);
    EXPECT_THROW(Units(store, {}, rank.lane, true, rank.lane_env()), std::logic_error);
  });
}

// Counted by hand for two ranks; a norm of 13 and its neighbours start on lines of 64 bytes.
TEST(UnitBuffers, BytesAreThoseOfTheBuffers) {
  const auto bytes = [](const ParamLayout& layout, DType dtype, bool training, int num_replicas) {
    Arena measuring(0);
    return Units::buffer_bytes(ParamStore(measuring, specs(), dtype, training, layout), training, num_replicas);
  };
  const auto lines = [](std::size_t n) { return (n + 63) / 64 * 64; };
  ParamLayout layout = ParamLayout::whole(3);
  EXPECT_EQ(bytes(layout, DType::kF32, true, 1), 0U);
  layout.dense = layout.expert = {1, 2};
  const std::size_t norm = 13, up = 195, ends = 377;
  const std::size_t gathered_f32 = 2 * lines(4 * norm) + 2 * lines(4 * up) + lines(4 * norm) + lines(4 * ends);
  const std::size_t gathered_bf16 = 2 * lines(2 * norm) + 2 * lines(2 * up) + lines(2 * norm) + lines(2 * ends);
  // Two chunks of the longer shard of the head: 15 of 29 rows, 7 of 13 elements.
  const std::size_t staging = lines(2 * 4 * (15 * 13 + 7));
  EXPECT_EQ(bytes(layout, DType::kF32, false, 1), gathered_f32);
  EXPECT_EQ(bytes(layout, DType::kBF16, false, 1), gathered_bf16);
  EXPECT_EQ(bytes(layout, DType::kBF16, true, 1), gathered_bf16 + gathered_f32 + staging);
  layout.zero = 2;
  EXPECT_EQ(bytes(layout, DType::kBF16, true, 1), gathered_f32 + staging);
  layout.zero = 1;
  EXPECT_EQ(bytes(layout, DType::kBF16, true, 1), staging);
  EXPECT_EQ(bytes(layout, DType::kBF16, false, 1), 0U);
}

}  // namespace
}  // namespace moe
