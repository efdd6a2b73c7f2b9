// The loss does not know how many ranks there are: training on thread ranks of many meshes against one process, on the same
// global batches. Losses, gradient norms, balance losses, counts, bias, parameters, evaluation; two runs on one mesh have
// the same bits; nobody updates unless all are finite. Not here: MPI, files (train_mpi_test.sh).
#include <gtest/gtest.h>

#include <cmath>

#include "lib/io/tokenizer.h"
#include "lib/run/generate.h"
#include "tests/compare.h"
#include "tests/train_on_mesh.h"

namespace moe {
namespace {

constexpr int kVocab = 37, kSteps = 20;

struct TrainCase {
  std::string name;
  TrainOptions options;
  std::vector<MeshSetting> meshes;
  int together = 0;  // sequences of a micro-batch of all ranks; 0: options.micro_batch is of one rank
  TrainOptions options_on(const MeshSetting& setting) const {
    TrainOptions o = options;
    if (together > 0) o.micro_batch = together / setting.mesh.shape.size();
    return o;
  }
};

TrainOptions base_options() {
  TrainOptions o;
  o.common.seed = 11;
  ModelConfig& c = o.model;
  c.vocab_size = kVocab, c.num_layers = 2, c.d_model = 12, c.num_heads = 2, c.num_kv_heads = 1, c.head_dim = 4;
  c.num_experts = 5, c.top_k = 2, c.expert_ffn = 7, c.init_std = 0.2f, c.rope_theta = 100;
  o.batch = 7, o.seq = 9, o.steps = kSteps, o.lr = 4e-3f, o.weight_decay = 0.1f, o.grad_clip = 1;
  return o;
}

MeshSetting on(int replicate, int shard, int ep, int zero = 3, std::vector<int> rank2node = {},
               DispatchMode dispatch = DispatchMode::kAuto, bool overlap = true) {
  return {{.shape = {replicate, shard, ep}, .zero = zero, .dispatch = dispatch, .overlap = overlap}, std::move(rank2node)};
}
constexpr auto kFlat = DispatchMode::kFlat, kTwoLevel = DispatchMode::kTwoLevel;

// Softmax, renormalised; every balance loss; documents are masked; 5 experts and 7 sequences fit no mesh.
TrainCase softmax_case() {
  TrainCase t{"softmax", base_options(), {}};
  t.options.balance = {.aux = 0.05f, .seq_aux = 0.03f, .global_aux = 0.04f, .z = 0.01f};
  t.options.document_mask = true;
  t.meshes = {on(1, 1, 2, 1),
              on(1, 1, 3, 3, {0, 0, 1}, kTwoLevel, false),
              on(1, 2, 2, 3, {0, 0, 1, 1}),
              on(2, 1, 2, 2, {}, kFlat),
              on(1, 2, 3, 2, {0, 0, 0, 1, 1, 2}, kTwoLevel),
              on(1, 1, 7, 3, {0, 0, 0, 1, 1, 1, 1}, kTwoLevel),
              on(2, 2, 2, 3, {0, 0, 0, 0, 1, 1, 1, 1}),
              on(1, 8, 1)};
  return t;
}

// Sigmoid with a bias that moves, a scale, a shared expert, a dense first block; several nodes.
TrainCase sigmoid_case() {
  TrainCase t{"sigmoid", base_options(), {}};
  ModelConfig& c = t.options.model;
  c.num_layers = 3, c.num_dense_layers = 1, c.dense_ffn = 11, c.num_experts = 6, c.top_k = 3, c.num_shared_experts = 1;
  c.router_score = Score::kSigmoid, c.router_bias = true, c.router_scale = 1.5f;
  t.options.balance = {.seq_aux = 0.02f, .global_aux = 0.03f, .bias_update_speed = 0.01f};
  t.options.batch = 11, t.options.recompute = Recompute::kLight;
  t.meshes = {on(2, 1, 1),
              on(1, 3, 1, 1),
              on(1, 1, 4, 2, {0, 0, 1, 1}, kTwoLevel),
              on(3, 1, 2, 1, {}, DispatchMode::kAuto, false),
              on(1, 1, 6, 3, {0, 1, 1, 1, 2, 2}, kTwoLevel, false),
              on(7, 1, 1, 2),
              on(1, 2, 4, 3, {0, 0, 1, 1, 2, 2, 3, 3}),
              on(2, 1, 4, 3, {0, 0, 0, 0, 0, 1, 1, 1}, kTwoLevel)};
  return t;
}

// Group-limited, tied embeddings, norms of queries and keys, two shared experts.
TrainCase group_case() {
  TrainCase t{"group-limited", base_options(), {}};
  ModelConfig& c = t.options.model;
  c.num_experts = 12, c.num_expert_groups = 4, c.num_groups_kept = 2, c.top_k = 3, c.num_shared_experts = 2;
  c.router_score = Score::kSigmoid, c.router_bias = true, c.tied_embeddings = true, c.qk_norm = QkNorm::kHead;
  t.options.balance = {.aux = 0.02f, .z = 0.01f, .bias_update_speed = 0.02f};
  t.options.batch = 8;
  t.meshes = {on(1, 2, 1, 2),
              on(1, 1, 4),
              on(1, 4, 1),
              on(4, 1, 1, 1),
              on(1, 3, 2, 3, {0, 0, 1, 1, 2, 2}),
              on(1, 7, 1, 3),
              on(1, 1, 8, 3, {0, 0, 0, 0, 1, 1, 1, 1}, kTwoLevel),
              on(2, 4, 1, 2, {}, kFlat, false)};
  return t;
}

// Every expert chosen, more ranks than experts and than sequences, blocks computed again.
TrainCase few_case() {
  TrainCase t{"few of everything", base_options(), {}};
  ModelConfig& c = t.options.model;
  c.num_experts = c.top_k = 3, c.qk_norm = QkNorm::kFull, c.router_renormalize = false;
  t.options.balance = {.aux = 0.1f, .seq_aux = 0.1f, .global_aux = 0.1f, .z = 0.02f};
  t.options.batch = 3, t.options.recompute = Recompute::kFull;
  t.meshes = {on(1, 1, 2, 3, {0, 1}),
              on(3, 1, 1),
              on(1, 2, 2, 1, {0, 0, 0, 1}, kTwoLevel),
              on(1, 1, 6, 2, {0, 0, 0, 0, 1, 1}, kTwoLevel),
              on(1, 7, 1, 1),
              on(1, 1, 7, 3, {}, kFlat),
              on(2, 1, 4, 3, {0, 0, 1, 1, 2, 2, 3, 3}, kTwoLevel)};
  return t;
}

// Latent attention as in DeepSeek-V3, its norms and up-projections computed again.
TrainCase latent_case() {
  TrainCase t{"latent", base_options(), {}};
  ModelConfig& c = t.options.model;
  c.attention = AttentionKind::kMla, c.rope_interleaved = true, c.num_dense_layers = 1, c.dense_ffn = 11;
  c.q_lora_rank = 7, c.kv_lora_rank = 5, c.qk_nope_head_dim = 3, c.qk_rope_head_dim = 4, c.v_head_dim = 5;
  c.num_shared_experts = 1, c.router_score = Score::kSigmoid, c.router_bias = true;
  t.options.balance = {.seq_aux = 0.02f, .bias_update_speed = 0.01f};
  t.options.recompute = Recompute::kLight, t.options.document_mask = true;
  t.meshes = {on(1, 1, 2, 1), on(1, 2, 2, 3, {0, 0, 1, 1}), on(2, 1, 3, 2, {}, kFlat), on(1, 7, 1),
              on(2, 2, 2, 3, {0, 0, 0, 0, 1, 1, 1, 1}, kTwoLevel)};
  return t;
}

// The layers of gpt-oss: biases of experts are cut, gathered and reduced as their weights.
TrainCase gpt_oss_case(Recompute recompute) {
  TrainCase t{recompute == Recompute::kFull ? "gpt-oss recomputed" : "gpt-oss", base_options(), {}};
  ModelConfig& c = t.options.model;
  c.attention_bias = c.attention_sinks = c.router_logit_bias = c.expert_bias = true;
  c.sliding_window = 4, c.layer_types = "sliding,full", c.swiglu_limit = 0.7f;
  t.options.balance = {.aux = 0.02f}, t.options.recompute = recompute, t.options.document_mask = true;
  t.options.steps = 10;
  t.meshes = {on(1, 1, 2, 1), on(1, 2, 2, 3, {0, 0, 1, 1}), on(2, 1, 3, 2, {}, kFlat), on(1, 7, 1),
              on(2, 2, 2, 3, {0, 0, 0, 0, 1, 1, 1, 1}, kTwoLevel)};
  return t;
}

// Several micro-batches, whose size is of one rank: losses that count over a micro-batch would be others on other meshes.
TrainCase micro_batch_case() {
  TrainCase t{"micro-batches", base_options(), {}};
  t.options.model.num_experts = 4, t.options.model.num_shared_experts = 1;
  t.options.balance = {.seq_aux = 0.05f, .z = 0.01f};
  t.options.batch = 13, t.options.micro_batch = 2, t.options.document_mask = true;
  t.meshes = {on(1, 2, 1, 1),
              on(1, 1, 3),
              on(2, 2, 1, 2),
              on(1, 1, 4, 3, {0, 0, 1, 1}),
              on(3, 2, 1, 3),
              on(1, 2, 3, 1, {0, 0, 0, 1, 1, 1}),
              on(1, 4, 2, 2, {}, kFlat, false)};
  return t;
}

// The same micro-batches on every mesh, the last one smaller: f of the global balance loss counts over those so far.
TrainCase same_micro_batches_case() {
  TrainCase t{"same micro-batches", base_options(), {}, 8};
  t.options.balance = {.aux = 0.05f, .seq_aux = 0.02f, .global_aux = 0.06f, .z = 0.01f};
  t.options.batch = 21, t.options.recompute = Recompute::kLight;
  t.meshes = {on(1, 1, 2, 2), on(1, 2, 2, 1, {0, 1, 0, 1}), on(2, 2, 2),
              on(1, 1, 8, 3, {0, 0, 0, 0, 0, 1, 1, 2}, kTwoLevel)};
  return t;
}

// Modules of multi-token prediction, whose blocks have experts, a bias that moves and balance losses as the others; tied.
TrainCase mtp_case() {
  TrainCase t{"multi-token prediction", base_options(), {}};
  ModelConfig& c = t.options.model;
  c.num_layers = 1, c.num_mtp_layers = 2, c.tied_embeddings = true, c.router_score = Score::kSigmoid, c.router_bias = true;
  t.options.balance = {.aux = 0.02f, .seq_aux = 0.02f, .bias_update_speed = 0.01f};
  t.options.batch = 8, t.options.steps = 12, t.options.lr = 8e-3f, t.options.document_mask = true,
  t.options.mtp_weight = 0.6f;
  t.meshes = {on(1, 1, 4, 1), on(2, 2, 1, 2), on(1, 2, 2, 3, {0, 0, 1, 1}), on(2, 1, 2, 2, {}, kFlat, false)};
  return t;
}
// The same with a head of its own, blocks computed again, several micro-batches.
TrainCase untied_mtp_case() {
  TrainCase t = mtp_case();
  t.name = "multi-token prediction untied", t.together = 4;
  t.options.model.tied_embeddings = false, t.options.model.num_mtp_layers = 1, t.options.recompute = Recompute::kFull;
  t.options.balance = {.seq_aux = 0.02f, .bias_update_speed = 0.01f};
  t.meshes = {on(1, 2, 2, 3), on(1, 4, 1, 2), on(2, 1, 2, 1)};
  return t;
}

class TrainMesh : public ::testing::TestWithParam<TrainCase> {};

bool relative(double got, double want, double tolerance) { return std::fabs(got - want) <= tolerance * std::fabs(want); }

// A score may tie with another within rounding: one token then takes the other expert, and the runs are apart from there.
bool is_a_tie(const StepResult& got, const StepResult& want) {
  std::int64_t moved = 0;
  for (std::size_t i = 0; i < want.layers.size(); ++i)
    for (std::size_t e = 0; e < want.layers[i].counts_E.size(); ++e)
      moved += std::abs(got.layers[i].counts_E[e] - want.layers[i].counts_E[e]);
  return moved > 0 && moved <= 2;
}

void expect_same_step(const StepResult& got, const StepResult& want) {
  EXPECT_TRUE(got.updated);
  EXPECT_PRED3(relative, got.loss, want.loss, 1e-5) << "loss";
  EXPECT_PRED3(relative, got.grad_norm, want.grad_norm, 1e-4) << "gradient norm";
  EXPECT_PRED3(relative, got.aux, want.aux, 1e-4) << "aux";
  EXPECT_PRED3(relative, got.seq_aux, want.seq_aux, 1e-4) << "seq-aux";
  EXPECT_PRED3(relative, got.global_aux, want.global_aux, 1e-4) << "global-aux";
  EXPECT_PRED3(relative, got.z, want.z, 1e-4) << "z";
  ASSERT_EQ(got.mtp_loss.size(), want.mtp_loss.size());
  for (std::size_t k = 0; k < want.mtp_loss.size(); ++k)
    EXPECT_PRED3(relative, got.mtp_loss[k], want.mtp_loss[k], 1e-5) << "module " << k;
  ASSERT_EQ(got.layers.size(), want.layers.size());
  for (std::size_t i = 0; i < want.layers.size(); ++i) {
    EXPECT_EQ(got.layers[i].counts_E, want.layers[i].counts_E) << "layer " << want.layers[i].layer;
    EXPECT_EQ(got.layers[i].dropped, 0);
  }
}

double norm(const std::vector<float>& v) {
  double squares = 0;
  for (const float x : v) squares += static_cast<double>(x) * static_cast<double>(x);
  return std::sqrt(squares);
}

void expect_same_params(const TrainedModel::Tensors& got, const TrainedModel::Tensors& want) {
  ASSERT_EQ(got.size(), want.size());
  for (const auto& [name, w] : want) {
    const std::vector<float>& g = got.at(name);
    ASSERT_EQ(g.size(), w.size()) << name;
    std::vector<float> difference(w.size());
    for (std::size_t i = 0; i < w.size(); ++i) difference[i] = g[i] - w[i];
    EXPECT_LE(norm(difference), 1e-4 * norm(w)) << name;
    EXPECT_TRUE(close_to(std::span<const float>(g), std::span<const float>(w), 1e-3)) << name;
  }
}

void expect_same_bits(const TrainedModel::Tensors& got, const TrainedModel::Tensors& want) {
  for (const auto& [name, w] : want) EXPECT_TRUE(same_bits(got.at(name), w)) << name;
}

// All ranks say the same, and replicas hold the same bits.
void expect_agreement(const TrainedModel& run) {
  for (std::size_t r = 1; r < run.rank2losses.size(); ++r) {
    EXPECT_EQ(run.rank2losses[r], run.rank2losses[0]) << "rank " << r;
    EXPECT_EQ(run.rank2bias[r], run.rank2bias[0]) << "rank " << r;
  }
  for (std::size_t i = 1; i < run.replica2params.size(); ++i) expect_same_bits(run.replica2params[i], run.replica2params[0]);
}

// False: a tie ended the comparison.
bool expect_same_run(const TrainedModel& got, const TrainedModel& want) {
  expect_agreement(got);
  for (std::size_t s = 0; s < want.steps.size(); ++s) {
    SCOPED_TRACE("step " + std::to_string(s + 1));
    if (is_a_tie(got.steps[s], want.steps[s])) return false;
    expect_same_step(got.steps[s], want.steps[s]);
    if (::testing::Test::HasFailure()) return true;
  }
  expect_same_params(got.replica2params[0], want.replica2params[0]);
  EXPECT_EQ(got.rank2bias[0], want.rank2bias[0]);
  EXPECT_EQ(got.coactivation, want.coactivation);
  EXPECT_EQ(got.evaluation.num_tokens, want.evaluation.num_tokens);
  EXPECT_PRED3(relative, got.evaluation.loss, want.evaluation.loss, 1e-5) << "evaluation";
  EXPECT_EQ(got.evaluation.second_tokens.num_judged, want.evaluation.second_tokens.num_judged);
  EXPECT_NEAR(static_cast<double>(got.evaluation.second_tokens.num_accepted),
              static_cast<double>(want.evaluation.second_tokens.num_accepted), 2)
      << "two tokens as good as each other";
  return true;
}

TEST_P(TrainMesh, IsOneProcess) {
  const std::string data = make_training_data("train_mesh", kVocab, 4000);
  const TrainedModel want = train_on_mesh(data, GetParam().options_on(on(1, 1, 1)), on(1, 1, 1));
  ASSERT_LT(want.steps.back().loss, 0.97 * want.steps.front().loss) << "it learns, so parameters matter";
  int num_ties = 0;
  for (const MeshSetting& setting : GetParam().meshes) {
    SCOPED_TRACE(setting_text(setting));
    num_ties += !expect_same_run(train_on_mesh(data, GetParam().options_on(setting), setting), want);
    if (HasFailure()) break;
  }
  EXPECT_LE(num_ties, 1) << "runs that met a tie";
  std::filesystem::remove(data);
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainMesh,
                         ::testing::Values(softmax_case(), sigmoid_case(), group_case(), few_case(), latent_case(),
                                           gpt_oss_case(Recompute::kLight), gpt_oss_case(Recompute::kFull), mtp_case(),
                                           untied_mtp_case(), micro_batch_case(), same_micro_batches_case()),
                         [](const auto& i) {
                           std::string name = i.param.name;
                           for (char& c : name)
                             if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
                           return name;
                         });

class TrainMeshData : public ::testing::Test {
 protected:
  void SetUp() override { data_ = make_training_data("train_mesh_more", kVocab, 2500); }
  void TearDown() override { std::filesystem::remove(data_); }
  std::string data_;
};

// Two nodes of which a token may use one: two groups of which it may use one, if they hold the same experts.
TEST_F(TrainMeshData, NodeLimitIsGroupLimit) {
  TrainOptions o = base_options();
  o.model.num_experts = 8;
  TrainOptions groups = o;
  groups.model.num_expert_groups = 2, groups.model.num_groups_kept = 1;
  o.model.max_nodes_per_token = 1;
  const TrainedModel want = train_on_mesh(data_, groups, on(1, 1, 1));
  for (const MeshSetting& setting : {on(1, 1, 2, 3, {0, 1}), on(1, 1, 4, 3, {0, 0, 1, 1}), on(2, 1, 2, 1, {0, 1, 0, 1}),
                                     on(1, 1, 6, 3, {0, 0, 0, 1, 1, 1}, kFlat)}) {
    SCOPED_TRACE(setting_text(setting));
    EXPECT_TRUE(expect_same_run(train_on_mesh(data_, o, setting), want)) << "a tie";
  }
}

TEST_F(TrainMeshData, TwoRunsHaveTheSameBits) {
  TrainOptions o = base_options();
  o.balance = {.aux = 0.02f, .global_aux = 0.02f};
  o.steps = 5;
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    o.dtype = dtype;
    for (const MeshSetting& setting : {on(1, 1, 1), on(2, 2, 2, 3, {0, 0, 0, 0, 1, 1, 1, 1}),
                                       on(1, 1, 7, 2, {0, 0, 0, 1, 1, 1, 1}, kTwoLevel), on(3, 1, 2, 1, {}, kFlat, false)}) {
      SCOPED_TRACE(setting_text(setting));
      const TrainedModel first = train_on_mesh(data_, o, setting), again = train_on_mesh(data_, o, setting);
      expect_agreement(first);
      EXPECT_EQ(first.rank2losses, again.rank2losses);
      EXPECT_LT(first.steps.back().loss, first.steps.front().loss);
      expect_same_bits(again.replica2params[0], first.replica2params[0]);
    }
  }
}

// What overlaps changes no more than the last digits; what is sharded, and how rows travel, changes neither sums nor order.
TEST_F(TrainMeshData, BF16IsCloseToOneProcess) {
  TrainOptions o = base_options();
  o.dtype = DType::kBF16, o.steps = 5, o.model.num_shared_experts = 1;
  const TrainedModel want = train_on_mesh(data_, o, on(1, 1, 1));
  for (const MeshSetting& setting : {on(1, 2, 2), on(2, 1, 3, 2, {0, 0, 1, 0, 0, 1}, kTwoLevel), on(1, 4, 1, 1)}) {
    SCOPED_TRACE(setting_text(setting));
    const TrainedModel got = train_on_mesh(data_, o, setting);
    expect_agreement(got);
    for (std::size_t s = 0; s < want.steps.size(); ++s) {
      EXPECT_PRED3(relative, got.steps[s].loss, want.steps[s].loss, 5e-3) << "step " << s + 1;
      EXPECT_PRED3(relative, got.steps[s].grad_norm, want.steps[s].grad_norm, 5e-2) << "step " << s + 1;
    }
  }
}

// What a rank holds of a tensor, to be spoiled: the gradient that counts, or the master.
enum class Spoil { kGradient, kMaster };
void spoil(MeshRank& rank, const std::string& name, Spoil what) {
  for (const Param& p : rank.model.params().all()) {
    if (p.spec.name != name) continue;
    float* const gradient = rank.model.params().layout().zero == 1 ? p.grad.f32() : p.grad_shard;
    (what == Spoil::kGradient ? gradient : p.master)[0] = std::numeric_limits<float>::infinity();
  }
  if (what == Spoil::kMaster) rank.model.units().weights_changed();
}

TEST_F(TrainMeshData, OneRankThatIsNotFiniteSkipsTheUpdateOfAll) {
  TrainOptions o = base_options();
  o.model.router_score = Score::kSigmoid, o.model.router_bias = true, o.balance.bias_update_speed = 0.01f;
  for (const MeshSetting& setting :
       {on(1, 1, 1), on(1, 2, 2, 1), on(1, 2, 2, 2), on(2, 1, 2, 3, {0, 0, 1, 1}), on(1, 1, 3)}) {
    SCOPED_TRACE(setting_text(setting));
    const int last = setting.mesh.shape.size() - 1;
    on_mesh(data_, o, setting, [&](MeshRank& rank) {
      rank.trainer.step(1e-3);
      TrainedModel::Tensors before, after;
      rank.put_params(before);
      const std::vector<float> bias = rank.bias();
      if (rank.world.rank() == last) spoil(rank, "layers.1.experts.gate_up.weight", Spoil::kGradient);
      const StepResult skipped = rank.trainer.step(1e-3);
      EXPECT_FALSE(skipped.updated);
      EXPECT_TRUE(std::isfinite(skipped.loss));
      rank.put_params(after);
      for (const auto& [name, values] : before)  // NaN: of another rank
        EXPECT_EQ(std::memcmp(values.data(), after.at(name).data(), 4 * values.size()), 0) << name;
      EXPECT_EQ(rank.bias(), bias);
      const StepResult next = rank.trainer.step(1e-3);
      EXPECT_TRUE(next.updated) << "what was not finite is gone";
      EXPECT_EQ(rank.trainer.updates_done, 2);
      EXPECT_EQ(rank.trainer.consumed_samples, 3 * o.batch);
    });
  }
}

TEST_F(TrainMeshData, AnExpertThatIsNotFiniteSkipsTheUpdateOfAll) {
  const TrainOptions o = base_options();
  for (const MeshSetting& setting : {on(1, 1, 4), on(1, 2, 2, 3, {0, 0, 1, 1}), on(2, 1, 2, 1)}) {
    SCOPED_TRACE(setting_text(setting));
    on_mesh(data_, o, setting, [&](MeshRank& rank) {
      if (rank.world.rank() == 1) spoil(rank, "layers.0.experts.down.weight", Spoil::kMaster);
      const StepResult skipped = rank.trainer.step(1e-3);
      EXPECT_FALSE(skipped.updated);
      EXPECT_EQ(rank.trainer.updates_done, 0);
    });
  }
}

// Greedy text is the same wherever the experts are.
TEST_F(TrainMeshData, SampleIsThatOfOneProcess) {
  TrainOptions o = base_options();
  o.model.vocab_size = 256;
  std::string want;
  for (const MeshSetting& setting : {on(1, 1, 1), on(1, 2, 2), on(1, 1, 3, 3, {0, 0, 1}, kTwoLevel), on(2, 2, 1)}) {
    SCOPED_TRACE(setting_text(setting));
    on_mesh(data_, o, setting, [&](MeshRank& rank) {
      const auto tokenizer = make_tokenizer("bytes");
      const Prompt prompt{.object = nullptr, .text = "ab", .tokens = tokenizer->encode("ab")};
      const TextModel model{.model = rank.model, .world = rank.world, .env = rank.env, .seq = o.seq};
      const std::vector<TextMade> made = make_texts(model, {{&prompt}}, {.tokens = 25}, 1, *tokenizer);
      if (rank.world.rank() != 0) return;
      const std::string text = made.at(0).text;
      if (want.empty()) want = text;
      EXPECT_EQ(text.size(), 25u);
      EXPECT_EQ(text, want);
    });
  }
}

}  // namespace
}  // namespace moe
