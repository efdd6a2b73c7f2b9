// The parameters of gpt-oss' layers: those of the specification, which of them decay, the window of each layer, what the
// configuration refuses. Not here: the mathematics (model_test.cpp, model_golden_test.cpp, train_mesh_test.cpp).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "lib/base/error.h"
#include "tests/config_refusal.h"
#include "tests/model_cases.h"

namespace moe {
namespace {

TEST(GptOssParams, AreThoseOfTheSpecification) {
  const std::vector<ParamSpec> specs = parameter_specs(mini_gpt_oss());
  const std::vector<ReferenceShape> want = reference_shapes(mini_gpt_oss());
  ASSERT_EQ(specs.size(), want.size());
  for (std::size_t i = 0; i < specs.size(); ++i) {
    EXPECT_EQ(specs[i].name, want[i].name);
    EXPECT_EQ(specs[i].shape, want[i].dims) << want[i].name;
    EXPECT_EQ(specs[i].is_expert, want[i].name.find(".experts.") != std::string::npos) << want[i].name;
  }
}

// Initial biases and sinks are 0, and nothing pulls them there: the decay of a step leaves them, norms and nothing else.
TEST(GptOssParams, BiasesAndSinksDoNotDecay) {
  Model model(mini_gpt_oss(), DType::kF32, true);
  model.initialize(3);
  const std::vector<AdamWTensor> tensors = model.params().adamw_tensors(0.25f);
  ASSERT_EQ(tensors.size(), model.params().all().size());
  int num_zeros = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::string& name = model.params().all()[i].spec.name;
    const bool bias = name.ends_with(".bias") || name.ends_with(".sinks");
    EXPECT_EQ(tensors[i].decay, bias || name.ends_with("norm.weight") ? 0.0f : 0.25f) << name;
    const bool zero = std::all_of(tensors[i].w, tensors[i].w + tensors[i].n, [](float w) { return w == 0; });
    EXPECT_EQ(zero, bias) << name;
    num_zeros += zero;
  }
  EXPECT_EQ(num_zeros, 6 * mini_gpt_oss().num_layers);
}

TEST(GptOssConfig, WindowsTakeTurns) {
  ModelConfig c = mini_gpt_oss();
  for (int i = 0; i < 6; ++i) EXPECT_EQ(c.window_of(i), i % 2 == 0 ? 5 : 0);
  c.layer_types = "full,sliding,sliding";
  for (int i = 0; i < 6; ++i) EXPECT_EQ(c.window_of(i), i % 3 == 0 ? 0 : 5);
  c.layer_types = "sliding", c.sliding_window = 0;
  EXPECT_EQ(c.window_of(3), 0);
}

TEST(GptOssConfig, RefusesWhatCannotBe) {
  struct Row {
    const char* says;
    void (*spoil)(ModelConfig&);
  };
  const Row rows[] = {
      {"--layer-types", [](ModelConfig& c) { c.layer_types = "sliding,local"; }},
      {"--layer-types", [](ModelConfig& c) { c.layer_types = ""; }},
      {"--sliding-window", [](ModelConfig& c) { c.sliding_window = -1; }},
      {"--swiglu-limit", [](ModelConfig& c) { c.swiglu_limit = -1; }},
      {"--swiglu-limit", [](ModelConfig& c) { c.swiglu_limit = std::nanf(""); }},
      {"--attention-sinks", [](ModelConfig& c) { c.attention = AttentionKind::kMla; }},
  };
  for (const Row& row : rows) {
    ModelConfig c = mini_gpt_oss();
    EXPECT_EQ(config_refusal(c), "nothing");
    row.spoil(c);
    EXPECT_THAT(config_refusal(c), ::testing::HasSubstr(row.says));
  }
}

// Parts of the loss that sinks take: nothing at -inf's side, everything at the other, where no key is heard.
TEST(GptOssModel, SinksTakeTheWeightOfKeys) {
  ModelCase m = make_case("sinks", mini_gpt_oss(), {}, 1, 9);
  m.config.expert_bias = m.config.attention_bias = false;
  ModelConfig none = m.config;
  none.attention_sinks = false;
  const auto logits = [&](const ModelConfig& c, double sink) {
    ReferenceParams params = m.params;
    for (auto& [name, values] : params)
      if (name.ends_with(".sinks")) values.assign(values.size(), sink);
    return RealModel(c, params, {}, {}, 1, 9, {}).logits(m.input);
  };
  EXPECT_EQ(logits(m.config, -1e4), logits(none, 0));
  EXPECT_NE(logits(m.config, 0), logits(none, 0));
}

}  // namespace
}  // namespace moe
