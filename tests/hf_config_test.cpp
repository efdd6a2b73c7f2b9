// config.json both ways: what is written is read as the same model, what the model does not have is refused by name.
// Not here: tensors (hf_test.cpp).
#include "lib/run/hf_config.h"

#include <gmock/gmock.h>

#include "lib/model/params.h"
#include "tests/checkpoint_case.h"
#include "tests/hf_configs.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

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
  EXPECT_THAT(refused(yarn), HasSubstr("rope_parameters.factor"));
  yarn["rope_parameters"]["rope_type"] = "llama3";
  EXPECT_THAT(refused(yarn), HasSubstr("rope_parameters.rope_type: expected default or yarn, found llama3"));
  // Of the stretched families: what version 5 says is what version 4 says.
  for (const json& v4 : {deepseek_v3(), kimi_k2(), deepseek_v2(), gpt_oss()}) {
    json moved = without(without(v4, "rope_scaling"), "rope_theta");
    moved["rope_parameters"] = v4["rope_scaling"];
    moved["rope_parameters"]["rope_theta"] = v4["rope_theta"];
    const HfConfig a = parse_hf_config(v4, "c"), b = parse_hf_config(moved, "c");
    EXPECT_EQ(hf_config_json(a.model, a.family, "x", {}), hf_config_json(b.model, b.family, "x", {}));
    EXPECT_THAT(refused(with(moved, "rope_scaling", v4["rope_scaling"])), HasSubstr("found both"));
  }
}

TEST(HfConfig, DeepseekAndKimi) {
  const HfConfig v3 = parse_hf_config(deepseek_v3(), "c"), kimi = parse_hf_config(kimi_k2(), "c"),
                 v2 = parse_hf_config(deepseek_v2(), "c"), lite = parse_hf_config(deepseek_v2_lite(), "c"),
                 v1 = parse_hf_config(deepseek_moe(), "c");
  EXPECT_EQ(v3.model.num_mtp_layers, 1);
  EXPECT_EQ(v3.model.group_score, GroupScore::kTop2Sum);
  EXPECT_TRUE(v3.model.router_bias && v3.model.rope_interleaved && v3.model.router_renormalize);
  EXPECT_EQ(v3.model.yarn.factor, 40);
  EXPECT_EQ(v3.quantization.block_cols, 128);
  EXPECT_THAT(v3.assumed, ::testing::ElementsAre("rope_interleave = true (the family's default)"));
  EXPECT_EQ(count_parameters(v3.model).total, 671026419200);
  EXPECT_EQ(kimi.model.yarn.beta_fast, 1);
  EXPECT_EQ(kimi.model.router_scale, 2.827f);
  EXPECT_EQ(v2.model.group_score, GroupScore::kMax);
  EXPECT_EQ(v2.model.num_groups_kept, 3);
  EXPECT_EQ(v2.model.yarn.mscale_all_dim, 0.707f);
  EXPECT_EQ(lite.model.q_lora_rank, 0);
  EXPECT_EQ(lite.model.num_expert_groups, 1);
  EXPECT_EQ(v1.model.attention, AttentionKind::kGqa);
  EXPECT_FALSE(v1.model.rope_interleaved);
}

TEST(HfConfig, GptOss) {
  const HfConfig g = parse_hf_config(gpt_oss(), "c");
  EXPECT_EQ(g.model.layer_types, "sliding,full");
  EXPECT_TRUE(g.model.attention_sinks && g.model.attention_bias && g.model.router_logit_bias && g.model.expert_bias);
  EXPECT_FALSE(g.model.yarn.truncate);
  EXPECT_EQ(g.quantization.kind, HfQuantization::Kind::kMxfp4);
  json irregular = gpt_oss();
  irregular["num_hidden_layers"] = 3;
  irregular["layer_types"] = {"full_attention", "full_attention", "sliding_attention"};
  EXPECT_EQ(parse_hf_config(irregular, "c").model.layer_types, "full,full,sliding");
  EXPECT_THAT(refused(with(irregular, "num_hidden_layers", 4)), HasSubstr("layer_types: expected one for each of 4"));
  irregular["layer_types"][0] = "chunked_attention";
  EXPECT_THAT(refused(irregular), HasSubstr("found \"chunked_attention\""));
  EXPECT_THAT(refused(with(gpt_oss(), "attention_bias", false)), HasSubstr("attention_bias: expected true"));
  EXPECT_THAT(refused(with(gpt_oss(), "experts_per_token", 8)), HasSubstr("experts_per_token: expected 4"));
  EXPECT_THAT(refused(with(gpt_oss(), "num_nextn_predict_layers", 1)), HasSubstr("num_nextn_predict_layers"));
}

TEST(HfConfig, WhatTheseFamiliesCannotBeIsRefusedByName) {
  EXPECT_THAT(refused(with(deepseek_v3(), "moe_layer_freq", 2)), HasSubstr("moe_layer_freq: expected 1, found 2"));
  EXPECT_THAT(refused(with(deepseek_v3(), "scoring_func", "softmax")), HasSubstr("scoring_func: expected sigmoid"));
  EXPECT_THAT(refused(with(deepseek_v3(), "topk_method", "greedy")), HasSubstr("topk_method: expected noaux_tc"));
  EXPECT_THAT(refused(with(deepseek_v2(), "topk_method", "noaux_tc")), HasSubstr("topk_method"));
  EXPECT_THAT(refused(with(deepseek_v2(), "norm_topk_prob", true)), HasSubstr("norm_topk_prob"));
  EXPECT_THAT(refused(with(deepseek_v3(), "attention_bias", true)), HasSubstr("attention_bias"));
  EXPECT_THAT(refused(with(deepseek_v3(), "num_key_value_heads", 8)), HasSubstr("num_key_value_heads: expected 128"));
  EXPECT_THAT(refused(without(deepseek_v3(), "q_lora_rank")), HasSubstr("q_lora_rank"));
  EXPECT_THAT(refused(with(deepseek_v3(), "index_topk", 2048)), HasSubstr("unknown key 'index_topk'"));
  EXPECT_THAT(refused(with(deepseek_moe(), "rope_scaling", deepseek_v2()["rope_scaling"])), HasSubstr("rope_scaling"));
  for (const auto& [key, value] : std::vector<std::pair<std::string, json>>{
           {"mscale", nullptr}, {"mscale_all_dim", nullptr}, {"mscale_all_dim", 0}, {"mscale", 0}}) {
    json c = deepseek_v2();
    c["rope_scaling"][key] = value;
    EXPECT_THAT(refused(c), HasSubstr("mscale")) << key;
  }
  json scaled = gpt_oss();
  scaled["rope_scaling"]["mscale_all_dim"] = 1.0;
  EXPECT_THAT(refused(scaled), HasSubstr("mscale"));
  scaled = deepseek_v3();
  scaled["rope_scaling"]["attention_factor"] = 1.5;
  EXPECT_THAT(refused(scaled), HasSubstr("rope_scaling.attention_factor"));
  const auto quantised = [](json config, const char* key, const json& value) {
    config["quantization_config"][key] = value;
    return refused(config);
  };
  EXPECT_THAT(quantised(deepseek_v3(), "quant_method", "awq"), HasSubstr("quant_method: expected fp8"));
  EXPECT_THAT(quantised(deepseek_v3(), "fmt", "e5m2"), HasSubstr("quantization_config.fmt"));
  EXPECT_THAT(quantised(deepseek_v3(), "weight_block_size", {128}), HasSubstr("quantization_config.weight_block_size"));
  EXPECT_THAT(quantised(deepseek_v3(), "weight_block_size", {0, 128}), HasSubstr("weight_block_size"));
  EXPECT_THAT(quantised(deepseek_v3(), "bits", 4), HasSubstr("quantization_config.bits"));
  EXPECT_THAT(quantised(gpt_oss(), "quant_method", "fp8"), HasSubstr("expected mxfp4"));
}

TEST(HfConfig, KeysThatTheUserIgnores) {
  const json config = with(deepseek_v3(), "index_topk", 2048);
  EXPECT_THAT(parse_hf_config(config, "c", {"index_topk"}).ignored,
              ::testing::ElementsAre("index_topk = 2048 (--ignore-key)"));
  std::string message;
  EXPECT_EQ(code_of([&] { parse_hf_config(config, "c", {"index_topq"}); }, message), Exit::kUsage);
  EXPECT_THAT(message, HasSubstr("index_topq"));
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
  EXPECT_THAT(refused(with(qwen(), "model_type", "llama4")), HasSubstr("found \"llama4\""));
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
  for (const json& config : {mixtral(), qwen(), olmoe(), with(qwen(), "mlp_only_layers", {0, 1}), deepseek_v3(), kimi_k2(),
                             deepseek_v2(), deepseek_v2_lite(), deepseek_moe(), gpt_oss()}) {
    const HfConfig once = parse_hf_config(config, "c");
    EXPECT_EQ(hf_family_of(once.model, "c", config["model_type"]), once.family);
    const json written = hf_config_json(once.model, once.family, "bfloat16", once.carried);
    for (const auto& [key, value] : config.items()) {
      const bool same =
          !written.contains(key) || key == "intermediate_size" || key == "rope_scaling" || written[key] == value;
      EXPECT_TRUE(same) << key;
    }
    if (config.contains("rope_scaling") && !config["rope_scaling"].is_null()) {
      for (const auto& [key, value] : config["rope_scaling"].items()) EXPECT_EQ(written["rope_scaling"][key], value) << key;
    }
    for (const char* key : {"aux_loss_alpha", "seq_aux", "auto_map", "initial_context_length", "router_aux_loss_coef"})
      EXPECT_EQ(written.contains(key), config.contains(key)) << key;
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
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.num_shared_experts = 1, m.qk_norm = QkNorm::kHead; }),
              HasSubstr("--shared-experts"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.router_scale = 2; }), HasSubstr("--router-scale"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.num_dense_layers = 1, m.qk_norm = QkNorm::kFull; }),
              HasSubstr("--dense-layers"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.router_renormalize = false, m.head_dim = 6; }), HasSubstr("--head-dim"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.num_mtp_layers = 1; }), HasSubstr("--mtp-depth"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.expert_bias = true; }), HasSubstr("--expert-bias"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.attention_sinks = true; }), HasSubstr("--attention-sinks"));
  const auto refused_latent = [&](auto change) {
    return refused_model([&](ModelConfig& m) {
      m = parse_hf_config(deepseek_v3(), "c").model;
      change(m);
    });
  };
  EXPECT_THAT(refused_latent([](ModelConfig& m) { m.router_bias = false; }), HasSubstr("--router-bias"));
  EXPECT_THAT(refused_latent([](ModelConfig& m) { m.group_score = GroupScore::kMax; }), HasSubstr("--group-score"));
  EXPECT_THAT(refused_latent([](ModelConfig& m) { m.yarn.mscale_all_dim = 0, m.yarn.mscale = 0.5f; }),
              HasSubstr("--rope-mscale"));
  EXPECT_THAT(refused_latent([](ModelConfig& m) { m.router_score = Score::kSoftmax, m.router_bias = false; }),
              HasSubstr("--group-score"));
  EXPECT_THAT(refused_model([](ModelConfig& m) { m.qk_norm = QkNorm::kFull, m.head_dim = 6; }), HasSubstr("--head-dim"));
}

}  // namespace
}  // namespace moe
