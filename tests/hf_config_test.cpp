// config.json both ways: what is written is read as the same model, what the model does not have is refused by name.
// Not here: tensors (hf_test.cpp).
#include "lib/run/hf_config.h"

#include <gmock/gmock.h>

#include "tests/checkpoint_case.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

json mixtral() {
  return {
      {"model_type", "mixtral"},      {"vocab_size", 32000},       {"hidden_size", 4096},        {"num_hidden_layers", 32},
      {"num_attention_heads", 32},    {"num_key_value_heads", 8},  {"intermediate_size", 14336}, {"num_local_experts", 8},
      {"num_experts_per_tok", 2},     {"rms_norm_eps", 1e-5},      {"rope_theta", 1e6},          {"hidden_act", "silu"},
      {"tie_word_embeddings", false}, {"sliding_window", nullptr}, {"bos_token_id", 1},          {"_name_or_path", "x"}};
}
json qwen() {
  return {{"model_type", "qwen3_moe"},
          {"vocab_size", 151936},
          {"hidden_size", 2048},
          {"num_hidden_layers", 48},
          {"num_attention_heads", 32},
          {"num_key_value_heads", 4},
          {"head_dim", 128},
          {"moe_intermediate_size", 768},
          {"intermediate_size", 6144},
          {"num_experts", 128},
          {"num_experts_per_tok", 8},
          {"norm_topk_prob", true},
          {"rms_norm_eps", 1e-6},
          {"rope_theta", 1e6},
          {"hidden_act", "silu"},
          {"tie_word_embeddings", false},
          {"decoder_sparse_step", 1},
          {"mlp_only_layers", json::array()},
          {"use_sliding_window", false},
          {"sliding_window", nullptr},
          {"max_window_layers", 48},
          {"attention_bias", false},
          {"rope_scaling", nullptr},
          {"router_aux_loss_coef", 0.001},
          {"output_router_logits", false},
          {"torch_dtype", "bfloat16"}};
}
json olmoe() {
  return {
      {"model_type", "olmoe"},     {"vocab_size", 50304},          {"hidden_size", 2048},       {"num_hidden_layers", 16},
      {"num_attention_heads", 16}, {"num_key_value_heads", 16},    {"intermediate_size", 1024}, {"num_experts", 64},
      {"num_experts_per_tok", 8},  {"norm_topk_prob", false},      {"rms_norm_eps", 1e-5},      {"rope_theta", 10000.0},
      {"hidden_act", "silu"},      {"tie_word_embeddings", false}, {"clip_qkv", nullptr},       {"attention_bias", false},
      {"rope_scaling", nullptr},   {"attention_dropout", 0.0}};
}
json with(json config, const char* key, const json& value) {
  config[key] = value;
  return config;
}
json without(json config, const char* key) {
  config.erase(key);
  return config;
}
std::string refused(const json& config) {
  std::string message;
  EXPECT_EQ(code_of([&] { parse_hf_config(config, "config.json"); }, message), Exit::kBadInput) << config;
  return message;
}

TEST(HfConfig, ReleasedModels) {
  const HfConfig m = parse_hf_config(mixtral(), "c"), q = parse_hf_config(qwen(), "c"), o = parse_hf_config(olmoe(), "c");
  EXPECT_EQ(m.model.qk_norm, QkNorm::kNone);
  EXPECT_TRUE(m.model.router_renormalize);
  EXPECT_THAT(m.assumed, ::testing::ElementsAre("head_dim = 128 (hidden_size / num_attention_heads)"));
  EXPECT_EQ(m.carried, json({{"bos_token_id", 1}}));
  EXPECT_EQ(q.model.head_dim, 128);
  EXPECT_EQ(q.model.expert_ffn, 768);
  EXPECT_EQ(q.model.qk_norm, QkNorm::kHead);
  EXPECT_EQ(q.model.num_dense_layers, 0);
  EXPECT_TRUE(q.model.router_renormalize);
  EXPECT_THAT(q.assumed, IsEmpty());
  EXPECT_EQ(o.model.qk_norm, QkNorm::kFull);
  EXPECT_FALSE(o.model.router_renormalize);
  EXPECT_EQ(o.model.num_kv_heads, 16);
}

TEST(HfConfig, BothSpellings) {
  json v5 = without(qwen(), "rope_theta");
  v5.erase("num_experts"), v5.erase("torch_dtype"), v5.erase("rope_scaling");
  v5["num_local_experts"] = 128, v5["dtype"] = "bfloat16";
  v5["rope_parameters"] = {{"rope_theta", 1e6}, {"rope_type", "default"}};
  v5["layer_types"] = json(std::vector<std::string>(48, "full_attention"));
  EXPECT_EQ(hf_config_json(parse_hf_config(v5, "c").model, HfFamily::kQwen3Moe, "x", {}),
            hf_config_json(parse_hf_config(qwen(), "c").model, HfFamily::kQwen3Moe, "x", {}));
  EXPECT_THAT(refused(with(qwen(), "num_local_experts", 64)), HasSubstr("num_local_experts: expected 128"));
  EXPECT_THAT(refused(with(v5, "rope_theta", 5.0)), HasSubstr("differ"));
  for (const char* key : {"factor", "beta_fast"}) {
    json scaled = v5;
    scaled["rope_parameters"][key] = 4.0;
    EXPECT_THAT(refused(scaled), HasSubstr(std::string("rope_parameters.") + key));
  }
  json yarn = v5;
  yarn["rope_parameters"]["rope_type"] = "yarn";
  EXPECT_THAT(refused(yarn), HasSubstr("rope_parameters.rope_type"));
}

TEST(HfConfig, WhatChangesTheMathematicsIsRefusedByName) {
  EXPECT_THAT(refused(with(mixtral(), "sliding_window", 4096)), HasSubstr("sliding_window = 4096"));
  EXPECT_THAT(refused(with(qwen(), "use_sliding_window", true)), HasSubstr("sliding_window"));
  EXPECT_EQ(parse_hf_config(with(qwen(), "sliding_window", 4096), "c").model.num_layers, 48);  // not used
  EXPECT_THAT(refused(with(olmoe(), "clip_qkv", 8.0)), HasSubstr("clip_qkv = 8.0"));
  EXPECT_THAT(refused(with(olmoe(), "attention_bias", true)), HasSubstr("attention_bias"));
  EXPECT_THAT(refused(with(qwen(), "rope_scaling", {{"rope_type", "yarn"}, {"factor", 4}})), HasSubstr("rope_scaling"));
  EXPECT_THAT(refused(with(qwen(), "quantization_config", {{"quant_method", "fp8"}})), HasSubstr("quantization_config"));
  EXPECT_THAT(refused(with(qwen(), "layer_types", json::array({"sliding_attention"}))), HasSubstr("layer_types"));
  EXPECT_THAT(refused(with(mixtral(), "hidden_act", "gelu")), HasSubstr("hidden_act"));
  EXPECT_THAT(refused(with(qwen(), "shared_expert_intermediate_size", 5632)), HasSubstr("unknown key 'shared_expert_int"));
  EXPECT_THAT(refused(with(qwen(), "model_type", "deepseek_v3")), HasSubstr("found \"deepseek_v3\""));
  EXPECT_THAT(refused(without(qwen(), "model_type")), HasSubstr("found none"));
  EXPECT_THAT(refused(with(qwen(), "decoder_sparse_step", 2)), HasSubstr("decoder_sparse_step"));
  EXPECT_THAT(refused(with(qwen(), "mlp_only_layers", {3})), HasSubstr("mlp_only_layers"));
  EXPECT_EQ(parse_hf_config(with(qwen(), "mlp_only_layers", {1, 0}), "c").model.num_dense_layers, 2);
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_experts",
                          "num_experts_per_tok", "moe_intermediate_size"}) {
    EXPECT_THAT(refused(without(qwen(), key)), HasSubstr(key));
    for (const json& bad : {json("8"), json(-1), json(2.5), json(1e12)})
      EXPECT_THAT(refused(with(qwen(), key, bad)), HasSubstr(key));
  }
  EXPECT_THAT(refused(with(qwen(), "num_key_value_heads", 5)), HasSubstr("kv-heads"));
}

TEST(HfConfig, WhatIsNotSaidIsTold) {
  EXPECT_THAT(parse_hf_config(without(qwen(), "norm_topk_prob"), "c").assumed,
              ::testing::ElementsAre("norm_topk_prob = false (the family's default)"));
  EXPECT_THAT(parse_hf_config(without(mixtral(), "rope_theta"), "c").assumed,
              ::testing::Contains(HasSubstr("rope_theta = 1e6")));
  EXPECT_EQ(parse_hf_config(without(olmoe(), "num_key_value_heads"), "c").model.num_kv_heads, 16);
  EXPECT_THAT(parse_hf_config(with(olmoe(), "attention_dropout", 0.1), "c").ignored,
              ::testing::ElementsAre("attention_dropout = 0.1 (training only)"));
}

TEST(HfConfig, ThereAndBack) {
  for (const json& config : {mixtral(), qwen(), olmoe(), with(qwen(), "mlp_only_layers", {0, 1})}) {
    const HfConfig once = parse_hf_config(config, "c");
    EXPECT_EQ(hf_family_of(once.model, "c"), once.family);
    const json written = hf_config_json(once.model, once.family, "bfloat16", once.carried);
    for (const auto& [key, value] : config.items()) {
      const bool same = !written.contains(key) || key == "intermediate_size" || written[key] == value;
      EXPECT_TRUE(same) << key;
    }
    const HfConfig again = parse_hf_config(written, "c");
    EXPECT_EQ(hf_config_json(again.model, again.family, "bfloat16", again.carried), written);
  }
}

TEST(HfConfig, ModelsThatNoFamilyHas) {
  const auto refused_model = [](auto change) {
    ModelConfig m;
    m.vocab_size = 8;
    change(m);
    std::string message;
    EXPECT_EQ(code_of([&] { hf_family_of(m, "run"); }, message), Exit::kBadInput);
    return message;
  };
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.router_score = Score::kSigmoid; }), HasSubstr("sigmoid"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.router_bias = true; }), HasSubstr("--router-bias"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.num_shared_experts = 1; }), HasSubstr("--shared-experts"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.router_scale = 2; }), HasSubstr("--router-scale"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.num_dense_layers = 1; }), HasSubstr("--dense-layers"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.router_renormalize = false; }), HasSubstr("--no-router-renormalize"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.qk_norm = QkNorm::kFull, m.head_dim = 6; }), HasSubstr("--head-dim"));
}

}  // namespace
}  // namespace moe
