// The specification against an independent framework: logits, losses, every gradient, counts, and ten steps of
// training, for every golden file. Two truths that were written apart and agree are worth believing.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "lib/base/error.h"
#include "tests/compare.h"
#include "tests/golden.h"
#include "tests/reference.h"
#include "tests/reference_train.h"

namespace moe {
namespace {

const std::string kDirectory = std::string(MOE_SOURCE_DIR) + "/tests/golden";
// Stored in fp32: half a unit in the last place is 6e-8 of a value.
constexpr double kTolerance = 1e-6;

ReferenceParams params_of(const Golden& g, const std::string& prefix) {
  ReferenceParams params;
  for (const auto& [name, t] : g.all(prefix)) params[name] = t.values;
  return params;
}

ReferenceInput input_of(const Golden& g, int step) {
  ReferenceInput in;
  in.num_seqs = g.integer("data.num_seqs"), in.seq_len = g.integer("data.seq_len");
  in.tokens = g.step_ints("tokens", step), in.targets = g.step_ints("targets", step);
  in.doc_start = g.step_ints("doc_start", step);
  in.router_bias = params_of(g, "router_bias/");
  return in;
}

ReferenceLoss loss_of(const Golden& g) {
  return {.aux = g.number("loss.aux"),
          .seq_aux = g.number("loss.seq_aux"),
          .z = g.number("loss.z"),
          .mtp = g.settings.contains("loss.mtp") ? g.number("loss.mtp") : 0};
}

ReferenceTraining training_of(const Golden& g) {
  return {.lr = g.number("train.lr"),
          .beta1 = g.number("train.beta1"),
          .beta2 = g.number("train.beta2"),
          .eps = g.number("train.eps"),
          .weight_decay = g.number("train.weight_decay"),
          .max_grad_norm = g.number("train.max_grad_norm"),
          .bias_update_speed = g.number("train.bias_update_speed")};
}

::testing::AssertionResult agrees(const std::vector<double>& got, const Golden& g, const std::string& tensor) {
  return close_to(std::span<const double>(got), std::span<const double>(g.values(tensor)), kTolerance);
}

class GoldenReference : public ::testing::TestWithParam<std::string> {
 protected:
  const Golden golden_ = read_golden(kDirectory + "/" + GetParam() + ".golden");
  const ModelConfig config_ = golden_.config();
};

TEST_P(GoldenReference, ParametersHaveTheNamesAndShapesOfTheList) {
  const auto weights = golden_.all("weight/");
  EXPECT_EQ(weights.size(), reference_shapes(config_).size());
  for (const ReferenceShape& s : reference_shapes(config_)) {
    ASSERT_TRUE(weights.contains(s.name)) << s.name;
    EXPECT_EQ(weights.at(s.name).dims, s.dims) << s.name;
  }
}

TEST_P(GoldenReference, LogitsLossesGradientsAndCounts) {
  ReferenceInput in = input_of(golden_, 0);
  EXPECT_EQ(in.tokens, golden_.ints("tokens"));
  EXPECT_EQ(in.targets, golden_.ints("targets"));
  const ReferenceOutput out = reference_run(config_, params_of(golden_, "weight/"), in, loss_of(golden_));
  EXPECT_TRUE(agrees(out.logits, golden_, "logits"));
  EXPECT_TRUE(agrees({out.terms.cross_entropy}, golden_, "loss/cross_entropy"));
  EXPECT_TRUE(agrees({out.terms.aux}, golden_, "loss/aux"));
  EXPECT_TRUE(agrees({out.terms.seq_aux}, golden_, "loss/seq_aux"));
  EXPECT_TRUE(agrees({out.terms.z}, golden_, "loss/z"));
  EXPECT_TRUE(agrees({out.terms.total()}, golden_, "loss/total"));
  ASSERT_EQ(out.terms.mtp.size(), static_cast<std::size_t>(config_.num_mtp_layers));
  for (std::size_t k = 0; k < out.terms.mtp.size(); ++k)
    EXPECT_TRUE(agrees({out.terms.mtp[k]}, golden_, "loss/mtp." + std::to_string(k)));
  const auto grads = golden_.all("grad/");
  EXPECT_EQ(grads.size(), out.grads.size());
  for (const auto& [name, grad] : out.grads) EXPECT_TRUE(agrees(grad, golden_, "grad/" + name)) << name;
  for (int layer = config_.num_dense_layers; layer < config_.num_blocks(); ++layer) {
    const std::vector<std::int64_t>& counts = out.counts[static_cast<std::size_t>(layer)];
    EXPECT_EQ(std::vector<std::int32_t>(counts.begin(), counts.end()), golden_.ints("counts/" + std::to_string(layer)));
  }
}

TEST_P(GoldenReference, TenStepsOfTraining) {
  ReferenceTrainState state{params_of(golden_, "weight/"), {}, {}, params_of(golden_, "router_bias/"), 0};
  std::vector<double> loss, cross_entropy, grad_norm;
  ReferenceParams bias;
  for (int step = 0; step < golden_.integer("data.num_steps"); ++step) {
    const ReferenceStep s = reference_step(config_, input_of(golden_, step), loss_of(golden_), training_of(golden_), state);
    loss.push_back(s.terms.total());
    cross_entropy.push_back(s.terms.cross_entropy);
    grad_norm.push_back(s.grad_norm);
    for (const auto& [name, b] : state.router_bias) bias[name].insert(bias[name].end(), b.begin(), b.end());
  }
  EXPECT_EQ(loss.size(), 10u);
  EXPECT_TRUE(agrees(loss, golden_, "step/loss"));
  EXPECT_TRUE(agrees(cross_entropy, golden_, "step/cross_entropy"));
  EXPECT_TRUE(agrees(grad_norm, golden_, "step/grad_norm"));
  EXPECT_EQ(bias.size(), config_.router_bias ? config_.num_moe_layers() : 0);
  for (const auto& [name, b] : bias) EXPECT_TRUE(agrees(b, golden_, "step/router_bias/" + name)) << name;
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenReference, ::testing::ValuesIn(golden_names(kDirectory)),
                         [](const auto& info) { return info.param; });

TEST(GoldenFiles, EveryKindIsThere) {
  EXPECT_EQ(golden_names(kDirectory),
            (std::vector<std::string>{"deepseek_v2", "deepseek_v3", "documents", "gpt_oss", "latent_v2", "latent_v3",
                                      "losses", "mixtral", "mtp", "mtp_documents", "olmoe", "qwen3", "tied"}));
}

// ---- the reader refuses -----------------------------------------------------------------------------------------

std::string file_with(const std::string& content) {
  const std::string path = ::testing::TempDir() + "/refused.golden";
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

TEST(GoldenReader, RefusesWhatItCannotRead) {
  const std::string good = "moe-golden 1\nset data.seed 3\ntensor a f32 2\nend\n", data(8, '\0');
  EXPECT_EQ(read_golden(file_with(good + data)).values("a"), (std::vector<double>{0, 0}));
  EXPECT_EQ(read_golden(file_with(good + data)).integer("data.seed"), 3);
  EXPECT_THROW(read_golden(file_with(good + data.substr(1))), Error) << "truncated data";
  EXPECT_THROW(read_golden(file_with(good + data + "x")), Error) << "bytes left over";
  EXPECT_THROW(read_golden(file_with("moe-golden 1\ntensor a f32 2\n")), Error) << "truncated header";
  EXPECT_THROW(read_golden(file_with("PK\x03\x04")), Error) << "foreign file";
  EXPECT_THROW(read_golden(file_with("moe-golden 1\ntensor a f16 2\nend\n" + data)), Error) << "unknown type";
  EXPECT_THROW(read_golden("/nonexistent.golden"), Error);
  EXPECT_THROW(read_golden(file_with(good + data)).config(), Error) << "no model settings";
  EXPECT_THROW(read_golden(file_with(good + data)).values("b"), Error) << "no such tensor";
}

}  // namespace
}  // namespace moe
