// What import and export of Hugging Face checkpoints share: boxes small enough for a buffer, elements in another dtype, the
// model that the state of a checkpoint describes. Not here: names (hf_names.h), files.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "lib/io/box.h"
#include "lib/io/safetensors.h"
#include "lib/model/config.h"

namespace moe {

// Cuts a box along its first dimensions into boxes of at most `most_elements`, in row-major order; one is at least a row of
// the last dimension.
void cut_box(const Box& box, std::int64_t most_elements, std::vector<Box>& out);

// A box of a tensor in the coordinates of another that begins at `origin`.
Box relative_to(const Box& box, const std::vector<std::int64_t>& origin);

// out[i] = from[i]: exact where `to` is as wide or wider, else rounded to nearest even. F16, BF16 and F32 only.
void convert_elements(SafeType from, const std::byte* in, std::int64_t count, DType to, std::byte* out);

// A budget for buffers: one large part, and blocks on their way to it.
struct HfMemory {
  std::int64_t part_bytes, block_bytes;
};
HfMemory split_memory(std::int64_t memory_bytes);  // Error(kUsage) below 64 KiB

// Options of moe-train that make the model, as a checkpoint's state keeps them; and back, Error(kBadInput) if they do not.
nlohmann::json model_options_json(ModelConfig model, DType dtype);
ModelConfig model_of_state(const nlohmann::json& state, const std::string& path);

}  // namespace moe
