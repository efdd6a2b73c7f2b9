// The published models at their published sizes. Architecture, routing and balance losses: config.json of each model on the
// Hugging Face hub; training: the report or paper named beside it, and where none says anything, what is usual (kUsual).
// AdamW 0.9/0.95, decay 0.1, clipping at 1 and lowest expert first among equals are the defaults of the options.
// rope-factor is the released model's: its makers stretched it (YaRN) after training at 4096; --rope-factor 1 trains the
// model as it was before.
#include "lib/model/presets_list.h"

namespace moe {
namespace {

const std::string kUsual = "dtype bf16  seq 4096  batch 256  micro-batch 1  steps 100000  warmup 2000  lr 4e-4 ";

// Mistral AI, arXiv 2401.04088.
const std::string kMixtral =
    kUsual + "kv-heads 8  head-dim 128  experts 8  top-k 2  vocab-size 32000  rope-theta 1e6  norm-eps 1e-5 ";

// arXiv 2401.06066: 2T tokens, the learning rate times 0.316 at 80 % and at 90 %.
const std::string kDeepSeekMoe =
    kUsual +
    "batch 4608  lr 4.2e-4  schedule phases  lr-phases constant@0.8,constant:0.316@0.9,constant:0.099856  init-std 0.006 "
    "vocab-size 102400  rope-theta 1e4  norm-eps 1e-6  dense-layers 1  router-renormalize false  aux-loss 0.001 "
    "expert-ffn 1408  experts 64  top-k 6  shared-experts 2 ";

// The latent attention of DeepSeek-V2 and what came of it; weights turn neighbours.
const std::string kLatent =
    "attention mla  kv-lora-rank 512  qk-nope-head-dim 128  qk-rope-head-dim 64  v-head-dim 128  rope-interleaved true "
    "rope-original-length 4096  norm-eps 1e-6 ";

// arXiv 2405.04434. Lite: 5.7T tokens.
const std::string kDeepSeekV2 = kDeepSeekMoe + kLatent + "rope-factor 40  rope-mscale 0.707  rope-mscale-all-dim 0.707 ";

// arXiv 2412.19437, sections 2.1.2 and 4.2.
const std::string kSigmoidRouter =
    "router-score sigmoid  router-bias true  router-renormalize true  top-k 8  shared-experts 1  expert-ffn 2048 "
    "rope-mscale 1  rope-mscale-all-dim 1 ";

// Qwen3, arXiv 2505.09388: balance over the global batch.
const std::string kQwen3 = kUsual +
                           "kv-heads 4  head-dim 128  qk-norm head  experts 128  top-k 8  vocab-size 151936  rope-theta 1e6 "
                           "norm-eps 1e-6  global-aux-loss 0.001 ";

// gpt-oss, arXiv 2508.10925.
const std::string kGptOss =
    kUsual +
    "d-model 2880  heads 64  kv-heads 8  head-dim 64  attention-bias true  attention-sinks true  sliding-window 128 "
    "layer-types sliding,full  router-logit-bias true  expert-bias true  swiglu-limit 7  top-k 4  expert-ffn 2880 "
    "vocab-size 201088  rope-theta 150000  rope-factor 32  rope-original-length 4096  rope-truncate false  norm-eps 1e-5 "
    "aux-loss 0.9 ";

std::vector<Preset> first_presets() {
  return {{"mixtral-8x7b", "46.7 B parameters, 12.9 B active",
           preset_options(kMixtral + "layers 32  d-model 4096  heads 32  expert-ffn 14336  aux-loss 0.02")},
          {"mixtral-8x22b", "141 B parameters, 39 B active",
           preset_options(kMixtral + "layers 56  d-model 6144  heads 48  expert-ffn 16384  aux-loss 0.001")},
          {"deepseek-moe-16b", "16.4 B parameters, 2.8 B active",
           preset_options(kDeepSeekMoe +
                          "layers 28  d-model 2048  heads 16  kv-heads 16  head-dim 128  dense-ffn 10944  steps 106449")},
          {"deepseek-v2-lite", "15.7 B parameters, 2.4 B active",
           preset_options(kDeepSeekV2 + "layers 27  d-model 2048  heads 16  dense-ffn 10944  steps 302000")},
          {"deepseek-v2", "236 B parameters, 21 B active",
           preset_options(kDeepSeekV2 + "layers 60  d-model 5120  heads 128  q-lora-rank 1536  dense-ffn 12288  experts 160 "
                                        "expert-ffn 1536  expert-groups 8  groups-kept 3  group-score max  router-scale 16 "
                                        "batch 9216  batch-ramp 2304:225B:768  steps 220696  lr 2.4e-4 "
                                        "lr-phases constant@0.6,constant:0.316@0.9,constant:0.099856  aux-loss 0.003")}};
}

std::vector<Preset> later_presets() {
  return {
      {"deepseek-v3", "671 B parameters, 37 B active, MTP",
       preset_options(kUsual + kLatent + kSigmoidRouter +
                      "layers 61  d-model 7168  heads 128  q-lora-rank 1536  dense-layers 3  dense-ffn 18432  experts 256 "
                      "expert-groups 8  groups-kept 4  router-scale 2.5  vocab-size 129280  rope-theta 1e4  rope-factor 40 "
                      "moments bf16  mtp-depth 1  mtp-weight 0.3,0.1@10T  init-std 0.006  seq-aux-loss 1e-4  "
                      "bias-update-speed 0.001,0@14.3T "
                      "batch 15360  batch-ramp 3072:469B:768  steps 243761  lr 2.2e-4  schedule phases "
                      "lr-phases constant@10T,cosine:0.1@14.3T,constant@14.633T,constant:0.0331818")},
      {"olmoe-1b-7b", "6.9 B parameters, 1.3 B active",  // arXiv 2409.02060: 5.1T tokens
       preset_options(kUsual +
                      "layers 16  d-model 2048  heads 16  kv-heads 16  head-dim 128  qk-norm full  experts 64  top-k 8 "
                      "expert-ffn 1024  router-renormalize false  vocab-size 50304  rope-theta 1e4  norm-eps 1e-5 "
                      "aux-loss 0.01  z-loss 0.001  batch 1024  steps 1223800")},
      {"qwen3-30b-a3b", "30.5 B parameters, 3.3 B active",
       preset_options(kQwen3 + "layers 48  d-model 2048  heads 32  expert-ffn 768")},
      {"qwen3-235b-a22b", "235 B parameters, 22 B active",
       preset_options(kQwen3 + "layers 94  d-model 4096  heads 64  expert-ffn 1536")},
      {"gpt-oss-20b", "20.9 B parameters, 3.6 B active", preset_options(kGptOss + "layers 24  experts 32")},
      {"gpt-oss-120b", "117 B parameters, 5.1 B active", preset_options(kGptOss + "layers 36  experts 128")},
      {"kimi-k2",
       "1.03 T parameters, 32 B active",  // arXiv 2507.20534: 15.5T tokens in batches of 67M; its QK-clip is not here
       preset_options(
           kUsual + kLatent + kSigmoidRouter +
           "layers 61  d-model 7168  heads 64  q-lora-rank 1536  dense-layers 1  dense-ffn 18432  experts 384 "
           "router-scale 2.827  vocab-size 163840  rope-theta 5e4  rope-factor 32  rope-beta-fast 1 "
           "optimizer muon  seq-aux-loss 0.001  bias-update-speed 0.001  batch 16384  steps 230968  warmup 500  lr 2e-4 "
           "schedule phases  lr-phases constant@10T,cosine:0.1")}};
}

}  // namespace

std::vector<Preset> published_presets() {
  std::vector<Preset> all = first_presets(), later = later_presets();
  all.insert(all.end(), later.begin(), later.end());
  return all;
}

}  // namespace moe
