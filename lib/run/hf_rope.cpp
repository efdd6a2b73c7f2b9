// The rotary embedding in config.json: what read_hf_rope and write_hf_rope do.
// Source: modeling_rope_utils.py of transformers, and the model files beside DeepSeek's weights.
#include <array>
#include <cmath>

#include "lib/run/hf_config_reader.h"
#include "lib/run/hf_config_write.h"

namespace moe {
namespace {

using nlohmann::json;

struct FamilyDefault {
  float theta;
  const char* text;
};
FamilyDefault default_theta(HfFamily family) {
  if (family == HfFamily::kMixtral) return {1e6f, "1e6"};
  if (family == HfFamily::kGptOss) return {1.5e5f, "150000"};
  return {1e4f, "1e4"};
}

// One object that says how the embedding is stretched; `name` is its key.
class Scaling {
 public:
  Scaling(HfConfigReader& r, std::string name, const json& object) : r_(r), name_(std::move(name)), object_(object) {}

  std::string type() const {
    std::string type = "default";
    for (const char* key : {"type", "rope_type"})
      if (object_.contains(key) && !object_[key].is_null()) {
        if (!object_[key].is_string()) r_.refuse(name_ + "." + key + ": expected a text");
        type = object_[key].get<std::string>();
      }
    return type;
  }
  // Keys beyond `known` that say something.
  void check_keys(std::initializer_list<const char*> known) const {
    for (const auto& [key, v] : object_.items()) {
      bool fine = key == "rope_type" || key == "type" || key == "rope_theta" || says_no(v) ||
                  (key == "partial_rotary_factor" && v == 1.0);
      for (const char* k : known) fine = fine || key == k;
      if (!fine) r_.refuse(name_ + "." + key + " = " + v.dump().substr(0, 80) + " is not supported");
    }
  }
  float number(const char* key, float otherwise) const {
    return object_.contains(key) && !object_[key].is_null() ? r_.real(name_ + "." + key, object_[key]) : otherwise;
  }
  void need(const char* key) const {
    if (!object_.contains(key) || object_[key].is_null())
      r_.refuse("expected the key '" + name_ + "." + key + "', found none");
  }
  int whole(const char* key) const {
    need(key);
    return r_.whole(name_ + "." + key, object_[key]);
  }
  bool flag(const char* key, bool otherwise) const {
    if (!object_.contains(key) || object_[key].is_null()) return otherwise;
    if (!object_[key].is_boolean()) r_.refuse(name_ + "." + key + ": expected true or false");
    return object_[key].get<bool>();
  }
  [[noreturn]] void refuse(const std::string& what, const std::string& hint = "") const { r_.refuse(name_ + what, hint); }

 private:
  HfConfigReader& r_;
  std::string name_;
  const json& object_;
};

// 0 is what DeepSeek's own code takes for a missing mscale_all_dim; transformers takes neither without the other.
void read_mscale(const Scaling& s, const json& object, bool is_mla, YarnOptions& y) {
  const auto value = [&](const char* key, float otherwise) {
    return object.contains(key) && object[key] == 0 ? 0.0f : s.number(key, otherwise);
  };
  y.mscale = value("mscale", 1), y.mscale_all_dim = value("mscale_all_dim", 0);
  const bool half_said = y.mscale_all_dim != 0 && !(object.contains("mscale") && !object["mscale"].is_null());
  if (half_said || !hf_mscale_is_clear(y, is_mla))
    s.refuse(".mscale, mscale_all_dim: expected " + std::string(is_mla ? "both above 0, or none" : "none") + ", found " +
                 json(y.mscale).dump() + ", " + json(y.mscale_all_dim).dump(),
             "implementations differ in what it means");
}

void read_yarn(HfConfigReader& r, const Scaling& s, const json& object, bool is_mla, YarnOptions& y) {
  s.check_keys(
      {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"});
  s.need("factor");
  y.factor = s.number("factor", 1);
  y.original_length = s.whole("original_max_position_embeddings");
  y.beta_fast = s.number("beta_fast", 32), y.beta_slow = s.number("beta_slow", 1);
  y.truncate = s.flag("truncate", true);
  read_mscale(s, object, is_mla, y);
  const json* longest = r.find("max_position_embeddings");
  if (longest && longest->is_number() &&
      std::abs(longest->get<double>() - static_cast<double>(y.factor) * y.original_length) > 0.5)
    r.assume("RoPE is stretched " + json(y.factor).dump() + " times as its factor says (max_position_embeddings is not " +
             "that many times the original length)");
}

void read_scaling(HfConfigReader& r, const std::string& name, const json& object, bool is_mla, ModelConfig& m) {
  const Scaling s(r, name, object);
  const std::string type = s.type();
  if (type == "yarn") return read_yarn(r, s, object, is_mla, m.yarn);
  if (type != "default") s.refuse(".rope_type: expected default or yarn, found " + type.substr(0, 40));
  s.check_keys({});
}

}  // namespace

bool hf_mscale_is_clear(const YarnOptions& y, bool is_mla) {
  return (y.mscale == 1 && y.mscale_all_dim == 0) || (is_mla && y.mscale > 0 && y.mscale_all_dim > 0);
}

void read_hf_rope(HfConfigReader& r, HfFamily family, ModelConfig& m) {
  const auto [theta, text] = default_theta(family);
  const json *flat = r.find("rope_theta"), *v5 = r.find("rope_parameters"), *v4 = r.find("rope_scaling");
  for (const auto& [key, v] : {std::pair("rope_parameters", v5), {"rope_scaling", v4}})
    if (v && !v->is_object()) r.refuse(std::string(key) + ": expected a JSON object");
  if (v5 && v4 && !v4->empty()) r.refuse("expected rope_parameters or rope_scaling, found both");
  const bool nested = v5 && v5->contains("rope_theta");
  m.rope_theta = nested ? r.real("rope_parameters.rope_theta", v5->at("rope_theta")) : r.real_or("rope_theta", theta, text);
  if (nested && flat && r.real("rope_theta", *flat) != m.rope_theta)
    r.refuse("rope_theta and rope_parameters.rope_theta differ");
  if (v5) read_scaling(r, "rope_parameters", *v5, m.is_mla(), m);
  if (v4) read_scaling(r, "rope_scaling", *v4, m.is_mla(), m);
}

void write_hf_rope(const ModelConfig& m, json& config) {
  config["rope_theta"] = hf_number(m.rope_theta);
  const YarnOptions& y = m.yarn;
  if (y.factor == 1) return;
  json& s = config["rope_scaling"];
  s = {{"type", "yarn"},
       {"rope_type", "yarn"},
       {"factor", hf_number(y.factor)},
       {"original_max_position_embeddings", y.original_length},
       {"beta_fast", hf_number(y.beta_fast)},
       {"beta_slow", hf_number(y.beta_slow)}};
  if (!y.truncate) s["truncate"] = false;
  if (y.mscale_all_dim == 0) return;
  s["mscale"] = hf_number(y.mscale), s["mscale_all_dim"] = hf_number(y.mscale_all_dim);
}

}  // namespace moe
