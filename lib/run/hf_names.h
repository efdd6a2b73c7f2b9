// Which tensor of Hugging Face is which part of which of ours, as data: each of theirs is, element by element, one box of
// one of ours, or two where gate and up are interleaved (gpt-oss). Weights are [out, in] on both sides but for the experts
// of gpt-oss, and RoPE turns the same pairs (--rope-interleaved), so no other row changes its place. Source:
// modeling_{mixtral,qwen3_moe,olmoe,deepseek_v2,deepseek_v3,gpt_oss}.py and conversion_mapping.py of transformers,
// modeling_deepseek.py beside DeepSeek's weights, README_WEIGHTS.md of DeepSeek-V3.
// Not here: bytes (hf_import.cpp, hf_export.cpp), runs of neighbours (hf_runs.h).
#pragma once

#include <string>
#include <vector>

#include "lib/io/box.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_config.h"
#include "lib/tensor/param.h"

namespace moe {

// What a checkpoint has for a model: parameters (role "weight"), and router biases of the selection (role "bias", fp32
// whatever the weights are; DeepSeek's e_score_correction_bias).
struct HfParam {
  std::string name, role;
  std::vector<std::int64_t> shape;
};
std::vector<HfParam> hf_params(const ModelConfig& model);

struct HfTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::size_t param = 0;  // index into hf_params(model)
  Box box;                // of that parameter
  // Element (i, j, ...) of the box, counted from its corner, is theirs[first + i step[0] + j step[1] + ...]; without steps
  // both are in row-major order.
  std::int64_t first = 0;
  std::vector<std::int64_t> step = {};
  // Embedding and head that files repeat in each module of multi-token prediction: they must be the model's own.
  bool duplicate = false;
};

// All of them, in the order of hf_params, duplicates last. The boxes of those that are none cover every parameter exactly
// once.
std::vector<HfTensor> hf_tensors(const ModelConfig& model, HfFamily family, HfLayout layout);

struct HfFound {
  std::string name;
  std::vector<std::int64_t> shape;
};
// The layout that the names on disk show. Error(kBadInput) if they show both.
HfLayout hf_layout_of(const std::vector<HfFound>& found, const std::string& path);

// Error(kBadInput) with what is missing (and the nearest name that is there), what is unexpected, and what has another
// shape, unless the names and shapes are exactly those of `expected`; duplicates may be missing.
void check_hf_tensors(const std::vector<HfTensor>& expected, const std::vector<HfFound>& found, const std::string& path);

}  // namespace moe
