// Typed access to config.json that remembers which keys were asked for, and what was assumed where there was none.
// Not here: which keys a family has (hf_config.cpp, hf_config_families.cpp).
#pragma once

#include <set>

#include "lib/run/hf_config.h"

namespace moe {

// null, false, or empty: the key asks for nothing.
bool says_no(const nlohmann::json& value);

class HfConfigReader {
 public:
  // `path` is for messages.
  HfConfigReader(const nlohmann::json& config, std::string path, HfConfig& out);

  [[noreturn]] void refuse(const std::string& what, const std::string& hint = "") const;  // Error(kBadInput)
  void assume(const std::string& what) { out_.assumed.push_back(what); }
  void ignore(const std::string& what) { out_.ignored.push_back(what); }

  const nlohmann::json* find(const std::string& key);  // nullptr if the key is not there or null
  bool has(const std::string& key);                    // true if it is null, too
  bool is_known(const std::string& key) const { return known_.contains(key); }

  int whole(const std::string& key, const nlohmann::json& value) const;  // 0 to 2^30
  int needed_int(const std::string& key);
  int int_or(const std::string& key, int value, const std::string& why);
  bool bool_or(const std::string& key, bool value, const std::string& why);
  float real(const std::string& key, const nlohmann::json& value) const;  // above 0
  float real_or(const std::string& key, float value, const char* text);
  // Refuses a key that is there and says anything else.
  void expect(const std::string& key, const nlohmann::json& value);

 private:
  const nlohmann::json& config_;
  std::string path_;
  HfConfig& out_;
  std::set<std::string> known_;
};

// The family's expert count is spelled in three ways; those that are there must agree.
int read_hf_expert_count(HfConfigReader& r);
// Base, layout and stretch of the rotary embedding, in the spelling of transformers 4 (rope_theta, rope_scaling) or 5
// (rope_parameters). YaRN alone is taken, and only where all implementations mean the same by what it says.
void read_hf_rope(HfConfigReader& r, HfFamily family, ModelConfig& m);
// The families that have keys of their own.
void read_hf_deepseek(HfConfigReader& r, HfFamily family, ModelConfig& m);
void read_hf_gpt_oss(HfConfigReader& r, ModelConfig& m);
// quantization_config: FP8 in blocks, or MXFP4 (gpt-oss).
HfQuantization read_hf_quantization(HfConfigReader& r, HfFamily family);

}  // namespace moe
