// config.json of Hugging Face <-> ModelConfig, for the families that this program can compute: Mixtral, Qwen3-MoE, OLMoE,
// DeepSeek-MoE, DeepSeek-V2 and V3, Kimi-K2, gpt-oss. Both spellings of keys are read (transformers 4 and 5). Nothing that
// changes the mathematics is passed over: a key that asks for what the model here does not have, or that is not known, is
// Error(kBadInput) with its name.
// Not here: tensors (hf_names.h).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/model/config.h"

namespace moe {

enum class HfFamily { kMixtral, kQwen3Moe, kOlmoe, kDeepseek, kDeepseekV2, kDeepseekV3, kKimiK2, kGptOss };
const char* name_of(HfFamily family);  // the value of model_type
// Families whose routers have e_score_correction_bias.
constexpr bool is_deepseek_v3(HfFamily f) { return f == HfFamily::kDeepseekV3 || f == HfFamily::kKimiK2; }

// How the large matrices are stored; values are made of it on import, and never written.
struct HfQuantization {
  enum class Kind { kNone, kFp8, kMxfp4 } kind = Kind::kNone;
  std::int64_t block_rows = 0, block_cols = 0;  // kFp8: elements that share a scale
};

struct HfConfig {
  HfFamily family = HfFamily::kMixtral;
  ModelConfig model;
  HfQuantization quantization;
  std::vector<std::string> assumed;  // "num_key_value_heads = 16 (as num_attention_heads)", for each key that was not there
  std::vector<std::string> ignored;  // keys that say something about training, or that the user said to ignore, and what
  nlohmann::json carried;            // keys that the model does not need and an export gives back (token ids, ...)
};

// `path` is for messages; keys of `ignore` are passed over (Error(kUsage) if one is not there).
HfConfig parse_hf_config(const nlohmann::json& config, const std::string& path, const std::vector<std::string>& ignore = {});

// The family whose mathematics this model has; Error(kBadInput) naming what none of them has. Of two that differ in name
// alone (DeepSeek-V3, Kimi-K2) the one of `model_type`, which may be empty. `path` is for messages.
HfFamily hf_family_of(const ModelConfig& model, const std::string& path, const std::string& model_type = "");
// config.json of transformers 4 (which 5 reads as well); dtype: "float32" or "bfloat16".
nlohmann::json hf_config_json(const ModelConfig& model, HfFamily family, const std::string& dtype,
                              const nlohmann::json& carried);

}  // namespace moe
