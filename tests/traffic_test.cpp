// The traffic of a step as --dry-run tells it, against what training on thread ranks sends: bytes of weights and gradients
// exactly; rows exactly where every token wants every expert, and chances against all choices there are. Not here: the
// exchanges themselves (dispatch_test.cpp, units_test.cpp).
#include <gtest/gtest.h>

#include <atomic>
#include <bit>
#include <memory>

#include "lib/run/row_traffic.h"
#include "lib/run/step_traffic.h"
#include "tests/train_on_mesh.h"

namespace moe {
namespace {

// Over all choices of groups, and of experts of these; the set's experts are the first here_P[p] of each part.
double counted_chance(int num_experts, int top_k, int kept, const std::vector<double>& here_P) {
  const int P = static_cast<int>(here_P.size()), size = num_experts / P;
  double hits = 0, all = 0;
  for (unsigned parts = 0; parts < 1u << P; ++parts) {
    if (std::popcount(parts) != kept) continue;
    for (unsigned experts = 0; experts < 1u << num_experts; ++experts) {
      bool possible = std::popcount(experts) == top_k, hit = false;
      for (int e = 0; e < num_experts; ++e) {
        if (!(experts >> e & 1u)) continue;
        possible = possible && (parts >> (e / size) & 1u);
        hit = hit || e % size < here_P[static_cast<std::size_t>(e / size)];
      }
      all += possible, hits += possible && hit;
    }
  }
  return hits / all;
}

TEST(Traffic, ChancesAreThoseOfAllChoices) {
  for (const int top_k : {1, 2, 3, 4})
    for (const auto& here :
         {std::vector<double>{3, 0, 0, 0}, {1, 0, 2, 0}, {3, 3, 3, 3}, {0, 0, 0, 1}, {1, 1, 1, 1}, {0, 0, 0, 0}})
      for (const int kept : {2, 3, 4}) {
        const double want = counted_chance(12, top_k, kept, here);
        EXPECT_NEAR(touch_chance(12, top_k, kept, here), want, 1e-12) << top_k << " " << kept;
      }
}

// DeepSeek-V3 on 64 ranks of 8 nodes: a node is a group, of which a token uses 4 of 8. Without the limit the expectation of
// distinct nodes is 8 (1 - C(224, 8) / C(256, 8)) = 5.3.
TEST(Traffic, NodesOfDeepSeekV3) {
  ModelConfig c;
  c.num_layers = 61, c.num_dense_layers = 3, c.num_experts = 256, c.top_k = 8;
  const MeshOptions mesh{.shape = {1, 2, 64}};
  const std::vector<int> nodes = declared_nodes(128, 8);
  EXPECT_NEAR(rows_per_token(c, mesh, nodes).inter * 8 / 7, 5.3, 0.02);
  c.num_expert_groups = 8, c.num_groups_kept = 4;
  const double node = touch_chance(256, 8, 4, {32, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_LT(8 * node, 4);
  EXPECT_NEAR(rows_per_token(c, mesh, nodes).inter, 7 * node, 1e-12);
  MeshOptions flat = mesh;
  flat.dispatch = DispatchMode::kFlat;
  const double rank = touch_chance(256, 8, 4, {4, 0, 0, 0, 0, 0, 0, 0});
  EXPECT_NEAR(rows_per_token(c, flat, nodes).inter, 56 * rank, 1e-12);
  EXPECT_NEAR(rows_per_token(c, flat, nodes).intra, 7 * rank, 1e-12);
  // Two levels send the same rows once to the node and on to all ranks that want them but the one where they arrive.
  EXPECT_NEAR(rows_per_token(c, mesh, nodes).intra, 7 * rank + 7 * 7 * rank, 1e-12);
}

// Bytes by name of the collective, of all ranks.
struct Counted {
  std::mutex mutex;
  std::map<std::string, SentBytes> sent;
};

// Passes everything on, and counts what goes to others.
class CountingComm : public Comm {
 public:
  CountingComm(std::unique_ptr<Comm> comm, std::vector<int> world2node, Counted& counted)
      : comm_(std::move(comm)), world2node_(std::move(world2node)), counted_(counted) {}
  int rank() const override { return comm_->rank(); }
  int size() const override { return comm_->size(); }
  std::string name_of(int rank) const override { return comm_->name_of(rank); }
  std::unique_ptr<Transfer> start(const char* what, std::span<const SendPiece> sends,
                                  std::span<const RecvPiece> receives) override {
    {
      const std::scoped_lock lock(counted_.mutex);
      for (const SendPiece& s : sends) {
        if (s.peer == rank()) continue;
        SentBytes& bytes = counted_.sent[what];
        (node_of(s.peer) == node_of(rank()) ? bytes.intra : bytes.inter) += static_cast<double>(s.bytes);
      }
    }
    return comm_->start(what, sends, receives);
  }
  std::unique_ptr<Comm> split(int color, int key) override {
    return std::make_unique<CountingComm>(comm_->split(color, key), world2node_, counted_);
  }

 private:
  int node_of(int peer) const {  // by "rank 3 (...)"
    const std::string name = comm_->name_of(peer);
    return world2node_.at(std::stoul(name.substr(name.find_first_of("0123456789"))));
  }
  std::unique_ptr<Comm> comm_;
  std::vector<int> world2node_;
  Counted& counted_;
};

// Sizes that every mesh here divides, so that shards are equal.
TrainOptions options() {
  TrainOptions o;
  ModelConfig& c = o.model;
  c.vocab_size = 48, c.num_layers = 4, c.num_dense_layers = 1, c.dense_ffn = 24;
  c.d_model = 24, c.num_heads = 4, c.num_kv_heads = 2, c.head_dim = 12;
  c.num_experts = 4, c.top_k = 4, c.expert_ffn = 12;
  o.batch = 8, o.seq = 6, o.lr = 1e-3f;
  return o;
}

std::map<std::string, SentBytes> count_step(const TrainOptions& o, const MeshOptions& mesh, const std::vector<int>& nodes,
                                            const std::string& data_path) {
  Counted counted;
  run_thread_ranks(mesh.shape.size(), [&](std::unique_ptr<Comm> comm) {
    omp_set_num_threads(1);
    World world(std::make_unique<CountingComm>(std::move(comm), nodes, counted), nodes);
    const TokenSource data = TokenSource::open(data_path);
    MeshRank rank(world, o, data, mesh);
    rank.trainer.step(1e-3);
  });
  return counted.sent;
}

void expect_bytes(const SentBytes& want, const std::vector<SentBytes>& parts, const char* what) {
  SentBytes got;
  for (const SentBytes& p : parts) got += p;
  EXPECT_DOUBLE_EQ(want.inter, got.inter) << what;
  EXPECT_DOUBLE_EQ(want.intra, got.intra) << what;
}

TEST(Traffic, IsWhatAStepSends) {
  const std::string data = make_training_data("traffic", 48, 2000);
  struct Case {
    MeshShape shape;
    int zero, micro_batch, ranks_per_node;
    DispatchMode dispatch = DispatchMode::kAuto;
    Recompute recompute = Recompute::kNone;
    bool tied = false;
  };
  const Case cases[] = {{{1, 2, 2}, 3, 1, 2},
                        {{1, 1, 4}, 3, 2, 2, DispatchMode::kTwoLevel, Recompute::kFull},
                        {{1, 1, 4}, 2, 1, 2, DispatchMode::kFlat},
                        {{2, 2, 1}, 1, 1, 1},
                        {{2, 1, 2}, 3, 1, 4, DispatchMode::kAuto, Recompute::kLight, true}};
  for (const Case& c : cases) {
    TrainOptions o = options();
    o.micro_batch = c.micro_batch, o.recompute = c.recompute, o.model.tied_embeddings = c.tied;
    const MeshOptions mesh{.shape = c.shape, .zero = c.zero, .dispatch = c.dispatch};
    SCOPED_TRACE(mesh_text(c.shape) + " zero " + std::to_string(c.zero));
    const std::vector<int> nodes = declared_nodes(c.shape.size(), c.ranks_per_node);
    auto sent = count_step(o, mesh, nodes, data);
    const StepTraffic t = step_traffic(o, mesh, nodes);
    expect_bytes(t.gather, {sent["gather"]}, "gather");
    expect_bytes(t.reduce, {sent["reduce"]}, "reduce");
    expect_bytes(t.replicas, {sent["reduce over replicas"]}, "replicas");
    expect_bytes(t.dispatch, {sent["dispatch rows"], sent["dispatch forward"]}, "rows to experts");
    expect_bytes(t.combine, {sent["combine rows"], sent["combine inside"]}, "rows home");
  }
  std::filesystem::remove(data);
}

}  // namespace
}  // namespace moe
