#include "lib/run/hf_names.h"

#include <algorithm>
#include <map>
#include <set>

#include "lib/base/error.h"
#include "lib/base/options.h"
#include "lib/model/params.h"

namespace moe {
namespace {

using Shape = std::vector<std::int64_t>;

// Builds the list for one parameter after the other.
class Mapper {
 public:
  Mapper(const ModelConfig& model, HfFamily family, HfLayout layout)
      : m_(model), fused_(layout == HfLayout::kFused), mixtral_(family == HfFamily::kMixtral) {}

  void add(std::size_t index, const ParamSpec& spec) {
    index_ = index, spec_ = &spec;
    if (spec.name == "embedding.weight") return whole("model.embed_tokens.weight");
    if (spec.name == "final_norm.weight") return whole("model.norm.weight");
    if (spec.name == "head.weight") return whole("lm_head.weight");
    const std::size_t dot = spec.name.find('.', 7);  // layers.N.part
    const std::string layer = "model." + spec.name.substr(0, dot + 1), part = spec.name.substr(dot + 1);
    if (part == "attn.qkv.weight") return attention(layer + "self_attn.");
    if (part == "mlp.gate_up.weight")
      return pair(layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight", m_.dense_ffn);
    if (part == "experts.gate_up.weight" || part == "experts.down.weight")
      return experts(layer, part.starts_with("experts.d"));
    // Mixtral is renamed where its experts are one tensor.
    const std::string router = mixtral_ && !fused_ ? "block_sparse_moe.gate.weight" : "mlp.gate.weight";
    const std::map<std::string, std::string> names = {{"attn_norm.weight", "input_layernorm.weight"},
                                                      {"ffn_norm.weight", "post_attention_layernorm.weight"},
                                                      {"attn.q_norm.weight", "self_attn.q_norm.weight"},
                                                      {"attn.k_norm.weight", "self_attn.k_norm.weight"},
                                                      {"attn.o.weight", "self_attn.o_proj.weight"},
                                                      {"mlp.down.weight", "mlp.down_proj.weight"},
                                                      {"router.weight", router}};
    const auto name = names.find(part);
    if (name == names.end()) throw Error(Exit::kInternal, "no name of Hugging Face for " + spec.name);
    whole(layer + name->second);
  }
  std::vector<HfTensor> take() { return std::move(list_); }

 private:
  void whole(const std::string& name) {
    list_.push_back({name, spec_->shape, index_, {Shape(spec_->shape.size(), 0), spec_->shape}});
  }
  // Rows [begin, begin + count) of a matrix.
  void rows(const std::string& name, std::int64_t begin, std::int64_t count) {
    const std::int64_t cols = spec_->shape[1];
    list_.push_back({name, {count, cols}, index_, {{begin, 0}, {count, cols}}});
  }
  // Rows [begin, begin + count) of expert e.
  void expert_rows(const std::string& name, std::int64_t e, std::int64_t begin, std::int64_t count) {
    const std::int64_t cols = spec_->shape[2];
    list_.push_back({name, {count, cols}, index_, {{e, begin, 0}, {1, count, cols}}});
  }
  void attention(const std::string& prefix) {
    const std::int64_t q = std::int64_t{m_.num_heads} * m_.head_dim, kv = std::int64_t{m_.num_kv_heads} * m_.head_dim;
    rows(prefix + "q_proj.weight", 0, q);
    rows(prefix + "k_proj.weight", q, kv);
    rows(prefix + "v_proj.weight", q + kv, kv);
  }
  void pair(const std::string& gate, const std::string& up, std::int64_t width) {
    rows(gate, 0, width);
    rows(up, width, width);
  }
  void experts(const std::string& layer, bool down) {
    if (fused_) return whole(layer + (down ? "mlp.experts.down_proj" : "mlp.experts.gate_up_proj"));
    const std::string prefix = layer + (mixtral_ ? "block_sparse_moe.experts." : "mlp.experts.");
    const std::int64_t F = m_.expert_ffn, D = m_.d_model;
    for (std::int64_t e = 0; e < m_.num_experts; ++e) {
      const std::string expert = prefix + std::to_string(e) + ".";
      if (down) {
        expert_rows(expert + (mixtral_ ? "w2" : "down_proj") + ".weight", e, 0, D);
        continue;
      }
      expert_rows(expert + (mixtral_ ? "w1" : "gate_proj") + ".weight", e, 0, F);
      expert_rows(expert + (mixtral_ ? "w3" : "up_proj") + ".weight", e, F, F);
    }
  }

  const ModelConfig& m_;
  bool fused_, mixtral_;
  std::size_t index_ = 0;
  const ParamSpec* spec_ = nullptr;
  std::vector<HfTensor> list_;
};

constexpr std::size_t kMostListed = 12;

std::string listed(const char* what, const std::vector<std::string>& items) {
  if (items.empty()) return "";
  std::string text;
  for (std::size_t i = 0; i < std::min(items.size(), kMostListed); ++i) text += (i == 0 ? "" : ", ") + items[i];
  if (items.size() > kMostListed) text += " and " + std::to_string(items.size() - kMostListed) + " more";
  return "; " + std::string(what) + " (" + std::to_string(items.size()) + "): " + text;
}

// The nearest of the names that nothing expects, for the few that will be read.
std::string with_nearest(const std::string& name, const std::vector<std::string>& unexpected, std::size_t position) {
  if (position >= kMostListed || unexpected.size() > 1000) return name;
  const std::string near = nearest_name(name, unexpected);
  return near.empty() ? name : name + " (nearest: " + near + ")";
}

}  // namespace

std::vector<HfTensor> hf_tensors(const ModelConfig& model, HfFamily family, HfLayout layout) {
  Mapper mapper(model, family, layout);
  const std::vector<ParamSpec> specs = parameter_specs(model);
  for (std::size_t i = 0; i < specs.size(); ++i) mapper.add(i, specs[i]);
  return mapper.take();
}

HfLayout hf_layout_of(const std::vector<std::string>& names, const std::string& path) {
  std::string fused, single;
  for (const std::string& name : names) {
    const std::size_t at = name.find(".experts.");
    if (at == std::string::npos) continue;
    const char next = name.size() > at + 9 ? name[at + 9] : '\0';
    (next >= '0' && next <= '9' ? single : fused) = name;
  }
  if (!fused.empty() && !single.empty())
    throw Error(Exit::kBadInput, path + ": expected experts in one layout, found both: " + fused + " and " + single,
                "two versions of a model lie in one directory");
  return fused.empty() ? HfLayout::kPerExpert : HfLayout::kFused;
}

void check_hf_tensors(const std::vector<HfTensor>& expected, const std::vector<HfFound>& found, const std::string& path) {
  std::map<std::string, const HfFound*> there;
  for (const HfFound& f : found) there[f.name] = &f;
  std::set<std::string> wanted;
  for (const HfTensor& t : expected) wanted.insert(t.name);
  std::vector<std::string> missing, unexpected, different;
  for (const HfFound& f : found)
    if (!wanted.contains(f.name)) unexpected.push_back(f.name);
  for (const HfTensor& t : expected) {
    const auto it = there.find(t.name);
    if (it == there.end())
      missing.push_back(with_nearest(t.name, unexpected, missing.size()));
    else if (it->second->shape != t.shape)
      different.push_back(t.name + " expected [" + joined(t.shape) + "], found [" + joined(it->second->shape) + "]");
  }
  if (missing.empty() && unexpected.empty() && different.empty()) return;
  throw Error(Exit::kBadInput,
              path + ": expected exactly the tensors of config.json" + listed("missing", missing) +
                  listed("unexpected", unexpected) + listed("different", different),
              "the files are of another model, or of one that this version does not know");
}

}  // namespace moe
