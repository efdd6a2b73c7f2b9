// Which tensor of Hugging Face is which part of which of ours, as data: each of theirs is, element by element in row-major
// order, one box of one of ours. Weights are [out, in] on both sides, and RoPE turns the halves of a head on both sides, so
// no row changes its place. Source: modeling_{mixtral,qwen3_moe,olmoe}.py and conversion_mapping.py of transformers.
// Not here: bytes (hf_import.cpp, hf_export.cpp).
#pragma once

#include <string>
#include <vector>

#include "lib/io/box.h"
#include "lib/run/hf_checkpoint.h"
#include "lib/run/hf_config.h"
#include "lib/tensor/param.h"

namespace moe {

struct HfTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  std::size_t param = 0;  // index into parameter_specs(model)
  Box box;                // of that parameter; as many elements as the shape
};

// All of them, in the order of parameter_specs. Their boxes cover every parameter exactly once.
std::vector<HfTensor> hf_tensors(const ModelConfig& model, HfFamily family, HfLayout layout);

// The layout that the names on disk show. Error(kBadInput) if they show both.
HfLayout hf_layout_of(const std::vector<std::string>& names, const std::string& path);

// Error(kBadInput) with what is missing (and the nearest name that is there), what is unexpected, and what has another
// shape, unless the names and shapes are exactly those of `expected`.
struct HfFound {
  std::string name;
  std::vector<std::int64_t> shape;
};
void check_hf_tensors(const std::vector<HfTensor>& expected, const std::vector<HfFound>& found, const std::string& path);

}  // namespace moe
