// config.json of Hugging Face <-> ModelConfig, for the families that this program can compute: Mixtral, Qwen3-MoE, OLMoE.
// Both spellings of keys are read (transformers 4 and 5). Nothing that changes the mathematics is passed over: a key that
// asks for what the model here does not have, or that is not known, is Error(kBadInput) with its name.
// Not here: tensors (hf_names.h).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/model/config.h"

namespace moe {

enum class HfFamily { kMixtral, kQwen3Moe, kOlmoe };
const char* name_of(HfFamily family);  // the value of model_type

struct HfConfig {
  HfFamily family = HfFamily::kMixtral;
  ModelConfig model;
  std::vector<std::string> assumed;  // "num_key_value_heads = 16 (as num_attention_heads)", for each key that was not there
  std::vector<std::string> ignored;  // keys that say something about training, and what
  nlohmann::json carried;            // keys that the model does not need and an export gives back (token ids, ...)
};

// `path` is for messages.
HfConfig parse_hf_config(const nlohmann::json& config, const std::string& path);

// The family whose mathematics this model has; Error(kBadInput) naming what none of them has. `path` is for messages.
HfFamily hf_family_of(const ModelConfig& model, const std::string& path);
// config.json of transformers 4 (which 5 reads as well); dtype: "float32" or "bfloat16".
nlohmann::json hf_config_json(const ModelConfig& model, HfFamily family, const std::string& dtype,
                              const nlohmann::json& carried);

}  // namespace moe
