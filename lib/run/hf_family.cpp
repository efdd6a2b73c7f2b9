// Which family of Hugging Face computes a model: hf_family_of. Not here: its config.json (hf_config_write.cpp).
#include "lib/base/error.h"
#include "lib/run/hf_config_write.h"

namespace moe {
namespace {

// Says no to what a family does not have, by the name of our option.
class Need {
 public:
  Need(std::string path, std::string families) : path_(std::move(path)), families_(std::move(families)) {}
  void operator()(bool ok, const std::string& found) const {
    if (!ok)
      throw Error(Exit::kBadInput, path_ + ": expected a model that " + families_ + " can be, found " + found,
                  "no model class of Hugging Face that is known here computes it");
  }

 private:
  std::string path_, families_;
};

void check_router_without_bias(const ModelConfig& m, const Need& need) {
  need(m.router_score == Score::kSoftmax, "--router-score sigmoid");
  need(!m.router_bias, "--router-bias");
}
void check_ungrouped(const ModelConfig& m, const Need& need) {
  need(m.router_scale == 1, "--router-scale " + std::to_string(m.router_scale));
  need(m.num_groups_kept == m.num_expert_groups, "--expert-groups with --groups-kept");
}
void check_no_gpt_oss(const ModelConfig& m, const Need& need) {
  need(!m.attention_bias, "--attention-bias");
  need(!m.attention_sinks, "--attention-sinks");
  need(!m.router_logit_bias, "--router-logit-bias");
  need(!m.expert_bias, "--expert-bias");
  need(m.swiglu_limit == 0, "--swiglu-limit");
  for (int i = 0; i < m.num_layers; ++i) need(m.window_of(i) == 0, "--sliding-window with sliding layers");
}
void check_rotary(const ModelConfig& m, const Need& need) {
  need(m.yarn.factor == 1 || hf_mscale_is_clear(m.yarn, m.is_mla()), "--rope-mscale, --rope-mscale-all-dim");
}

HfFamily gpt_oss(const ModelConfig& m, const std::string& path) {
  const Need need(path, "gpt-oss");
  check_router_without_bias(m, need);
  check_ungrouped(m, need);
  need(m.attention_bias && m.router_logit_bias && m.expert_bias,
       "--attention-sinks without --attention-bias, --router-logit-bias and --expert-bias");
  need(m.swiglu_limit > 0, "--swiglu-limit 0");
  need(m.sliding_window > 0, "--sliding-window 0");
  need(m.router_renormalize, "--no-router-renormalize");
  need(m.qk_norm == QkNorm::kNone, "--qk-norm");
  need(m.num_shared_experts == 0, "--shared-experts");
  need(m.num_dense_layers == 0, "--dense-layers");
  return HfFamily::kGptOss;
}

HfFamily latent(const ModelConfig& m, const std::string& path, const std::string& model_type) {
  const bool v3 = m.router_score == Score::kSigmoid, limited = m.num_groups_kept < m.num_expert_groups;
  const Need need(path, v3 ? "DeepSeek-V3" : "DeepSeek-V2");
  check_no_gpt_oss(m, need);
  need(!limited || (m.group_score == GroupScore::kTop2Sum) == v3, std::string("--group-score ") + (v3 ? "max" : "top2-sum"));
  if (v3) {
    need(m.router_bias, "--router-score sigmoid without --router-bias");
    return model_type == name_of(HfFamily::kKimiK2) ? HfFamily::kKimiK2 : HfFamily::kDeepseekV3;
  }
  check_router_without_bias(m, need);
  need(m.rope_interleaved, "--no-rope-interleaved");
  need(!m.router_renormalize, "--router-renormalize");
  need(m.num_mtp_layers == 0, "--mtp-depth");
  return HfFamily::kDeepseekV2;
}

HfFamily plain(const ModelConfig& m, const std::string& path) {
  const Need need(path, "Mixtral, Qwen3-MoE, OLMoE or DeepSeek-MoE");
  check_router_without_bias(m, need);
  check_ungrouped(m, need);
  check_no_gpt_oss(m, need);
  const bool square = m.head_dim * m.num_heads == m.d_model;
  if (m.qk_norm == QkNorm::kNone && (m.num_shared_experts > 0 || m.num_dense_layers > 0 || !m.router_renormalize)) {
    need(square, "another --head-dim than --d-model / --heads (in DeepSeek-MoE)");
    need(m.yarn.factor == 1, "--rope-factor (in DeepSeek-MoE)");
    return HfFamily::kDeepseek;
  }
  need(m.num_shared_experts == 0, "--shared-experts with --qk-norm");
  if (m.qk_norm == QkNorm::kHead) return HfFamily::kQwen3Moe;
  need(m.num_dense_layers == 0, "--dense-layers with --qk-norm full");
  if (m.qk_norm == QkNorm::kNone) return HfFamily::kMixtral;
  need(square, "--qk-norm full with another --head-dim than --d-model / --heads");
  return HfFamily::kOlmoe;
}

}  // namespace

HfFamily hf_family_of(const ModelConfig& m, const std::string& path, const std::string& model_type) {
  const Need need(path, "a family of Hugging Face");
  need(m.max_nodes_per_token == 0, "--max-nodes-per-token");
  check_rotary(m, need);
  if (m.is_mla()) return latent(m, path, model_type);
  need(!m.rope_interleaved, "--rope-interleaved without --attention mla");
  need(m.num_mtp_layers == 0, "--mtp-depth without --attention mla");
  return m.attention_sinks ? gpt_oss(m, path) : plain(m, path);
}

}  // namespace moe
