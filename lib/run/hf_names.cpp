#include "lib/run/hf_names.h"

#include <map>

#include "lib/base/error.h"
#include "lib/model/params.h"

namespace moe {
namespace {

using Shape = std::vector<std::int64_t>;

// Names that have one whole tensor on each side, behind "layers.N." and "model.layers.N.".
const std::map<std::string, std::string>& whole_names() {
  static const std::map<std::string, std::string> names = {{"attn_norm.weight", "input_layernorm.weight"},
                                                           {"ffn_norm.weight", "post_attention_layernorm.weight"},
                                                           {"attn.q_norm.weight", "self_attn.q_norm.weight"},
                                                           {"attn.k_norm.weight", "self_attn.k_norm.weight"},
                                                           {"attn.q.weight", "self_attn.q_proj.weight"},
                                                           {"attn.q_a.weight", "self_attn.q_a_proj.weight"},
                                                           {"attn.q_a_norm.weight", "self_attn.q_a_layernorm.weight"},
                                                           {"attn.q_b.weight", "self_attn.q_b_proj.weight"},
                                                           {"attn.kv_a.weight", "self_attn.kv_a_proj_with_mqa.weight"},
                                                           {"attn.kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"},
                                                           {"attn.kv_b.weight", "self_attn.kv_b_proj.weight"},
                                                           {"attn.o.weight", "self_attn.o_proj.weight"},
                                                           {"attn.o.bias", "self_attn.o_proj.bias"},
                                                           {"attn.sinks", "self_attn.sinks"},
                                                           {"mlp.down.weight", "mlp.down_proj.weight"},
                                                           {"shared.down.weight", "mlp.shared_experts.down_proj.weight"},
                                                           {"router.bias", "mlp.router.bias"},
                                                           {"mtp.embedding_norm.weight", "enorm.weight"},
                                                           {"mtp.hidden_norm.weight", "hnorm.weight"},
                                                           {"mtp.projection.weight", "eh_proj.weight"},
                                                           {"mtp.norm.weight", "shared_head.norm.weight"}};
  return names;
}

// Builds the list for one parameter after the other.
class Mapper {
 public:
  Mapper(const ModelConfig& model, HfFamily family, HfLayout layout) : m_(model), family_(family), layout_(layout) {
    if (mixtral()) block_ = layout == HfLayout::kFused ? "mlp." : "block_sparse_moe.";
  }

  void add(std::size_t index, const HfParam& param) {
    index_ = index, param_ = &param;
    if (param.name == "embedding.weight") return ends("model.embed_tokens.weight", true, m_.tied_embeddings);
    if (param.name == "final_norm.weight") return whole("model.norm.weight");
    if (param.name == "head.weight") return ends("lm_head.weight", false, true);
    const std::size_t dot = param.name.find('.', 7);  // layers.N.part
    layer_ = "model." + param.name.substr(0, dot + 1);
    add_part(param.name.substr(dot + 1));
  }
  std::vector<HfTensor> take() {
    list_.insert(list_.end(), duplicates_.begin(), duplicates_.end());
    return std::move(list_);
  }

 private:
  bool mixtral() const { return family_ == HfFamily::kMixtral; }

  void add_part(const std::string& part) {
    if (param_->role == "bias") return whole(layer_ + "mlp.gate.e_score_correction_bias");
    if (part == "attn.qkv.weight" || part == "attn.qkv.bias") return attention(part.substr(8));
    if (part == "mlp.gate_up.weight") return pair("mlp.", m_.dense_ffn);
    if (part == "shared.gate_up.weight") return pair("mlp.shared_experts.", m_.expert_ffn * m_.num_shared_experts);
    if (part == "router.weight")
      return whole(layer_ + (family_ == HfFamily::kGptOss ? "mlp.router.weight" : block_ + "gate.weight"));
    if (part.starts_with("experts.")) return experts(part);
    const auto name = whole_names().find(part);
    if (name == whole_names().end()) throw Error(Exit::kInternal, "no name of Hugging Face for " + param_->name);
    whole(layer_ + name->second);
  }

  Box all() const { return {Shape(param_->shape.size(), 0), param_->shape}; }
  void whole(const std::string& name) { list_.push_back({name, param_->shape, index_, all()}); }
  // Embedding and head, which every module of multi-token prediction repeats.
  void ends(const std::string& name, bool is_embedding, bool is_head) {
    whole(name);
    for (int i = m_.num_layers; i < m_.num_blocks(); ++i) {
      const std::string layer = "model.layers." + std::to_string(i) + ".";
      if (is_embedding) repeat(layer + "embed_tokens.weight");
      if (is_head) repeat(layer + "shared_head.head.weight");
    }
  }
  void repeat(const std::string& name) { duplicates_.push_back({name, param_->shape, index_, all(), 0, {}, true}); }
  // Rows [begin, begin + count) of a matrix, or elements of a vector.
  void rows(const std::string& name, std::int64_t begin, std::int64_t count) {
    Box box = all();
    box.offset[0] = begin, box.extent[0] = count;
    list_.push_back({name, box.extent, index_, box});
  }
  // Rows [begin, begin + count) of expert e.
  void expert_rows(const std::string& name, std::int64_t e, std::int64_t begin, std::int64_t count) {
    const std::int64_t cols = param_->shape[2];
    list_.push_back({name, {count, cols}, index_, {{e, begin, 0}, {1, count, cols}}});
  }
  void attention(const std::string& kind) {  // ".weight" or ".bias"
    const std::int64_t q = std::int64_t{m_.num_heads} * m_.head_dim, kv = std::int64_t{m_.num_kv_heads} * m_.head_dim;
    rows(layer_ + "self_attn.q_proj" + kind, 0, q);
    rows(layer_ + "self_attn.k_proj" + kind, q, kv);
    rows(layer_ + "self_attn.v_proj" + kind, q + kv, kv);
  }
  void pair(const std::string& prefix, std::int64_t width) {
    rows(layer_ + prefix + "gate_proj.weight", 0, width);
    rows(layer_ + prefix + "up_proj.weight", width, width);
  }

  void experts(const std::string& part) {
    const bool down = part.starts_with("experts.d");
    if (family_ == HfFamily::kGptOss) return gpt_oss_experts(down, part.ends_with("bias"));
    const std::string prefix = layer_ + block_ + "experts.";
    if (layout_ == HfLayout::kFused) return whole(prefix + (down ? "down_proj" : "gate_up_proj"));
    const std::int64_t F = m_.expert_ffn;
    for (std::int64_t e = 0; e < m_.num_experts; ++e) {
      const std::string expert = prefix + std::to_string(e) + ".";
      if (down) {
        expert_rows(expert + (mixtral() ? "w2" : "down_proj") + ".weight", e, 0, m_.d_model);
        continue;
      }
      expert_rows(expert + (mixtral() ? "w1" : "gate_proj") + ".weight", e, 0, F);
      expert_rows(expert + (mixtral() ? "w3" : "up_proj") + ".weight", e, F, F);
    }
  }

  // Gate and up lie interleaved; matrices are transposed, unless they are packed.
  void gpt_oss_experts(bool down, bool bias) {
    const std::int64_t E = m_.num_experts, F = m_.expert_ffn, D = m_.d_model;
    const std::string name = layer_ + "mlp.experts." + (down ? "down_proj" : "gate_up_proj") + (bias ? "_bias" : "");
    const bool packed = layout_ == HfLayout::kPacked;
    if (bias && down) return stepped(name, {E, D}, 0, D, 0, {D, 1, 1});
    if (down) return packed ? whole(name) : stepped(name, {E, F, D}, 0, D, 0, {F * D, 1, D});
    const Shape shape = bias ? Shape{E, 2 * F} : packed ? Shape{E, 2 * F, D} : Shape{E, D, 2 * F};
    const Shape step = bias ? Shape{2 * F, 2, 1} : packed ? Shape{2 * F * D, 2 * D, 1} : Shape{D * 2 * F, 2, 2 * F};
    stepped(name, shape, 0, F, 0, step);
    stepped(name, shape, F, F, packed && !bias ? D : 1, step);
  }
  // Rows [begin, begin + count) of every expert.
  void stepped(const std::string& name, const Shape& shape, std::int64_t begin, std::int64_t count, std::int64_t first,
               const Shape& step) {
    list_.push_back({name, shape, index_, {{0, begin, 0}, {m_.num_experts, count, param_->shape[2]}}, first, step});
  }

  const ModelConfig& m_;
  HfFamily family_;
  HfLayout layout_;
  std::string block_ = "mlp.", layer_;
  std::size_t index_ = 0;
  const HfParam* param_ = nullptr;
  std::vector<HfTensor> list_, duplicates_;
};

}  // namespace

std::vector<HfParam> hf_params(const ModelConfig& model) {
  std::vector<HfParam> list;
  for (const ParamSpec& spec : parameter_specs(model)) list.push_back({spec.name, "weight", spec.shape});
  for (int i = 0; model.router_bias && i < model.num_blocks(); ++i)
    if (!model.is_dense_layer(i))
      list.push_back({"layers." + std::to_string(i) + ".router.bias", "bias", {model.num_experts}});
  return list;
}

std::vector<HfTensor> hf_tensors(const ModelConfig& model, HfFamily family, HfLayout layout) {
  Mapper mapper(model, family, layout);
  const std::vector<HfParam> params = hf_params(model);
  for (std::size_t i = 0; i < params.size(); ++i) mapper.add(i, params[i]);
  return mapper.take();
}

}  // namespace moe
