#include "lib/run/hf_config_reader.h"

#include <cmath>

#include "lib/base/error.h"

namespace moe {

using nlohmann::json;

bool says_no(const json& v) {
  return v.is_null() || v == false || ((v.is_array() || v.is_object() || v.is_string()) && v.empty());
}

HfConfigReader::HfConfigReader(const json& config, std::string path, HfConfig& out)
    : config_(config), path_(std::move(path)), out_(out) {
  if (!config.is_object()) refuse("expected a JSON object");
}

void HfConfigReader::refuse(const std::string& what, const std::string& hint) const {
  throw Error(Exit::kBadInput, path_ + ": " + what, hint);
}

const json* HfConfigReader::find(const std::string& key) {
  known_.insert(key);
  const auto it = config_.find(key);
  return it == config_.end() || it->is_null() ? nullptr : &*it;
}
bool HfConfigReader::has(const std::string& key) {
  known_.insert(key);
  return config_.contains(key);
}

int HfConfigReader::whole(const std::string& key, const json& v) const {
  if (!v.is_number_integer() || v < 0 || v > (1 << 30)) refuse(key + ": expected a whole number from 0 to 2^30");
  return v.get<int>();
}
int HfConfigReader::needed_int(const std::string& key) {
  const json* v = find(key);
  if (!v) refuse("expected the key '" + key + "', found none");
  return whole(key, *v);
}
int HfConfigReader::int_or(const std::string& key, int value, const std::string& why) {
  if (const json* v = find(key)) return whole(key, *v);
  assume(key + " = " + std::to_string(value) + " (" + why + ")");
  return value;
}

bool HfConfigReader::bool_or(const std::string& key, bool value, const std::string& why) {
  const json* v = find(key);
  if (v && !v->is_boolean()) refuse(key + ": expected true or false");
  if (v) return v->get<bool>();
  assume(key + " = " + (value ? "true" : "false") + " (" + why + ")");
  return value;
}

float HfConfigReader::real(const std::string& key, const json& v) const {
  if (!v.is_number() || !std::isfinite(v.get<double>()) || v.get<double>() <= 0) refuse(key + ": expected a number above 0");
  return v.get<float>();
}
float HfConfigReader::real_or(const std::string& key, float value, const char* text) {
  if (const json* v = find(key)) return real(key, *v);
  assume(key + " = " + text + " (the family's default)");
  return value;
}

void HfConfigReader::expect(const std::string& key, const json& value) {
  const json* v = find(key);
  if (v && *v != value)
    refuse(key + ": expected " + value.dump() + ", found " + v->dump().substr(0, 80), "the model here does not have it");
}

int read_hf_expert_count(HfConfigReader& r) {
  int count = 0;
  for (const char* key : {"num_experts", "num_local_experts", "n_routed_experts"})
    if (const json* v = r.find(key)) {
      const int n = r.whole(key, *v);
      if (count != 0 && n != count)
        r.refuse(std::string(key) + ": expected " + std::to_string(count) + " as under its other name, found " +
                 std::to_string(n));
      count = n;
    }
  if (count == 0) r.refuse("expected the key 'num_experts' (or 'num_local_experts', 'n_routed_experts'), found none");
  return count;
}

}  // namespace moe
