// The real model against an independent framework: logits, losses, every gradient, counts, and ten steps of training, for
// every golden file, instruction set and number of threads. Not here: the specification (golden_reference_test.cpp).
#include <gtest/gtest.h>

#include "tests/compare.h"
#include "tests/golden.h"
#include "tests/kernel_test.h"
#include "tests/model_run.h"

namespace moe {
namespace {

const std::string kDirectory = std::string(MOE_SOURCE_DIR) + "/tests/golden";
// fp32 sums of a few hundred terms against float64, relative to the largest value.
constexpr double kLogitTolerance = 1e-5, kGradTolerance = 2e-5, kStepTolerance = 5e-6;

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
  return in;
}

BalanceOptions balance_of(const Golden& g) {
  return {.aux = static_cast<float>(g.number("loss.aux")),
          .seq_aux = static_cast<float>(g.number("loss.seq_aux")),
          .z = static_cast<float>(g.number("loss.z"))};
}

template <class T>
::testing::AssertionResult agrees(const std::vector<T>& got, const Golden& g, const std::string& tensor, double tolerance) {
  return close_to(std::span<const T>(got), std::span<const double>(g.values(tensor)), tolerance);
}

class GoldenModel : public ::testing::TestWithParam<std::string> {
 protected:
  RealModel model(RealSetting setting) const {
    if (golden_.settings.contains("loss.mtp")) setting.mtp_weight = golden_.number("loss.mtp");
    return {golden_.config(),
            params_of(golden_, "weight/"),
            params_of(golden_, "router_bias/"),
            balance_of(golden_),
            golden_.integer("data.num_seqs"),
            golden_.integer("data.seq_len"),
            setting};
  }
  void every_setting(const std::function<void(const RealSetting&)>& test) const {
    for (const Kernels* kernels : all_isas())
      for (const int threads : {1, 3}) {
        SCOPED_TRACE(std::string(kernels->isa) + ", " + std::to_string(threads) + " threads");
        test({.kernels = kernels, .threads = threads});
      }
  }

  const Golden golden_ = read_golden(kDirectory + "/" + GetParam() + ".golden");
};

TEST_P(GoldenModel, LogitsLossesGradientsAndCounts) {
  every_setting([&](const RealSetting& setting) {
    RealModel m = model(setting);
    EXPECT_TRUE(agrees(m.logits(input_of(golden_, 0)), golden_, "logits", kLogitTolerance));
    const RealOutput out = m.gradients(input_of(golden_, 0));
    EXPECT_TRUE(agrees<double>({out.loss}, golden_, "loss/cross_entropy", kStepTolerance));
    EXPECT_TRUE(agrees<double>({out.aux}, golden_, "loss/aux", kStepTolerance));
    EXPECT_TRUE(agrees<double>({out.seq_aux}, golden_, "loss/seq_aux", kStepTolerance));
    EXPECT_TRUE(agrees<double>({out.z}, golden_, "loss/z", kStepTolerance));
    EXPECT_TRUE(agrees<double>({out.total()}, golden_, "loss/total", kStepTolerance));
    ASSERT_EQ(out.mtp.size(), static_cast<std::size_t>(golden_.config().num_mtp_layers));
    for (std::size_t k = 0; k < out.mtp.size(); ++k)
      EXPECT_TRUE(agrees<double>({out.mtp[k]}, golden_, "loss/mtp." + std::to_string(k), kStepTolerance));
    EXPECT_EQ(out.grads.size(), golden_.all("grad/").size());
    for (const auto& [name, grad] : out.grads) EXPECT_TRUE(agrees(grad, golden_, "grad/" + name, kGradTolerance)) << name;
    for (const int layer : m.model().moe_layers()) {
      const auto& counts = out.tallies[static_cast<std::size_t>(layer)].counts_E;
      EXPECT_EQ(std::vector<std::int32_t>(counts.begin(), counts.end()), golden_.ints("counts/" + std::to_string(layer)));
    }
  });
}

TEST_P(GoldenModel, TenStepsOfTraining) {
  const double bound = golden_.number("train.max_grad_norm");
  every_setting([&](const RealSetting& setting) {
    RealModel m = model(setting);
    std::vector<double> loss, cross_entropy, grad_norm;
    std::map<std::string, std::vector<float>> bias;
    for (int step = 0; step < golden_.integer("data.num_steps"); ++step) {
      const RealOutput out = m.gradients(input_of(golden_, step));
      loss.push_back(out.total());
      cross_entropy.push_back(out.loss);
      grad_norm.push_back(m.grad_norm());
      m.adamw(static_cast<float>(golden_.number("train.weight_decay")),
              {.lr = static_cast<float>(golden_.number("train.lr")),
               .beta1 = static_cast<float>(golden_.number("train.beta1")),
               .beta2 = static_cast<float>(golden_.number("train.beta2")),
               .eps = static_cast<float>(golden_.number("train.eps")),
               .step = step + 1,
               .grad_scale = static_cast<float>(bound > 0 ? std::fmin(1, bound / grad_norm.back()) : 1)});
      m.move_router_bias(static_cast<float>(golden_.number("train.bias_update_speed")));
      for (const int layer : m.model().moe_layers()) {
        const std::vector<float>& b = m.model().router_bias(layer);
        auto& all = bias["layers." + std::to_string(layer) + ".router.bias"];
        all.insert(all.end(), b.begin(), b.end());
      }
    }
    EXPECT_EQ(loss.size(), 10u);
    EXPECT_TRUE(agrees(loss, golden_, "step/loss", kStepTolerance));
    EXPECT_TRUE(agrees(cross_entropy, golden_, "step/cross_entropy", kStepTolerance));
    EXPECT_TRUE(agrees(grad_norm, golden_, "step/grad_norm", kGradTolerance));
    for (const auto& [name, b] : bias) {
      if (b.empty()) continue;
      EXPECT_TRUE(agrees(b, golden_, "step/router_bias/" + name, kStepTolerance)) << name;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Files, GoldenModel, ::testing::ValuesIn(golden_names(kDirectory)),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace moe
