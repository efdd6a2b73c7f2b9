// Our own presets, and a small model of each published family: all of its special layers, its routing and its ways of
// keeping experts busy, at a size that learns in minutes on two cores. The vocabulary is the data's.
#include "lib/model/presets_list.h"

namespace moe {
namespace {

// Four blocks of width 128 on 2048 tokens a step.
const std::string kMini =
    "layers 4  d-model 128  heads 4  seq 128  batch 16  steps 400  warmup 40  lr 3e-3  experts 16  top-k 4  expert-ffn 64 ";
const std::string kLatent =
    "attention mla  kv-lora-rank 48  qk-nope-head-dim 32  qk-rope-head-dim 16  v-head-dim 32  rope-interleaved true "
    "rope-original-length 64  norm-eps 1e-6 ";
const std::string kSigmoidRouter =
    "router-score sigmoid  router-bias true  rope-mscale 1  rope-mscale-all-dim 1  dense-layers 1  dense-ffn 384 "
    "q-lora-rank 64  shared-experts 1 ";

std::vector<Preset> family_presets() {
  return {
      {"mixtral-mini", "few wide experts",
       preset_options(kMini + "kv-heads 2  head-dim 32  experts 8  top-k 2  expert-ffn 192  rope-theta 1e6  aux-loss 0.02")},
      {"deepseek-moe-mini", "fine and shared experts",
       preset_options(kMini +
                      "kv-heads 4  head-dim 32  dense-layers 1  dense-ffn 384  shared-experts 2  router-renormalize false "
                      "norm-eps 1e-6  aux-loss 0.01  schedule phases "
                      "lr-phases constant@0.8,constant:0.316@0.9,constant:0.099856")},
      {"deepseek-v2-mini", "latent attention, groups of experts",
       preset_options(kMini + kLatent +
                      "q-lora-rank 64  rope-factor 40  rope-mscale 0.707  rope-mscale-all-dim 0.707  dense-layers 1 "
                      "dense-ffn 384  shared-experts 2  router-renormalize false  expert-groups 4  groups-kept 2 "
                      "group-score max  router-scale 4  aux-loss 0.01  batch-ramp 4:50K:4  schedule phases "
                      "lr-phases constant@0.6,constant:0.316@0.9,constant:0.099856")},
      {"deepseek-v3-mini", "bias balancing, MTP, schedules",
       preset_options(kMini + kLatent + kSigmoidRouter +
                      "rope-factor 40  expert-groups 4  groups-kept 2  router-scale 2.5  mtp-depth 1  mtp-weight "
                      "0.3,0.1@0.676  seq-aux-loss 1e-4 "
                      "bias-update-speed 0.01,0@0.966  batch-ramp 4:50K:4  schedule phases "
                      "lr-phases constant@0.676,cosine:0.1@0.966,constant@0.989,constant:0.0331818")},
      {"olmoe-mini", "norms over projections, z-loss",
       preset_options(kMini +
                      "kv-heads 4  head-dim 32  qk-norm full  router-renormalize false  norm-eps 1e-5  aux-loss 0.01 "
                      "z-loss 0.001")},
      {"qwen3-mini", "norms per head, global balance",
       preset_options(kMini + "kv-heads 2  head-dim 32  qk-norm head  rope-theta 1e6  norm-eps 1e-6  global-aux-loss 0.01")},
      {"gpt-oss-mini", "sinks, windows, biases, clamps",
       preset_options(kMini +
                      "kv-heads 2  head-dim 32  attention-bias true  attention-sinks true  sliding-window 32 "
                      "layer-types sliding,full  router-logit-bias true  expert-bias true  swiglu-limit 7 "
                      "rope-theta 150000  rope-factor 32  rope-original-length 64  rope-truncate false  norm-eps 1e-5 "
                      "aux-loss 0.01")},
      {"kimi-k2-mini", "deepseek-v3 without groups",
       preset_options(kMini + kLatent + kSigmoidRouter +
                      "rope-theta 5e4  rope-factor 32  rope-beta-fast 1  router-scale 2.827  experts 24  optimizer muon "
                      "seq-aux-loss 0.001  bias-update-speed 0.01  schedule phases  lr-phases constant@0.65,cosine:0.1")}};
}

}  // namespace

std::vector<Preset> small_presets() {
  const std::string ours = "experts 8  top-k 2  qk-norm head  aux-loss 0.01 ";
  std::vector<Preset> all = {
      {"tiny", "learns a book in three minutes on two cores",
       preset_options(ours +
                      "layers 4  d-model 128  heads 4  kv-heads 4  head-dim 32  expert-ffn 192  seq 128  batch 16  lr 3e-3 "
                      "warmup 100  steps 2500")},
      {"small", "twenty minutes on two cores",
       preset_options(ours +
                      "layers 4  d-model 256  heads 4  kv-heads 4  head-dim 64  expert-ffn 512  seq 256  batch 8  lr 1.5e-3 "
                      "warmup 200  steps 4000")},
      {"medium", "a day on a small server",
       preset_options(ours + "layers 8  d-model 512  heads 8  kv-heads 8  head-dim 64  experts 16  expert-ffn 1024  seq 512 "
                             "batch 16  micro-batch 4  lr 8e-4  warmup 500  steps 20000")}};
  for (Preset& p : family_presets()) all.push_back(std::move(p));
  return all;
}

}  // namespace moe
