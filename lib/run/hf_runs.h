// How the elements of a block of one of our tensors lie in a tensor of Hugging Face: runs of equal distance.
// Pure arithmetic. Not here: which tensor is which (hf_names.h), bytes.
#pragma once

#include <functional>

#include "lib/run/hf_names.h"

namespace moe {

// Elements theirs[first + i step] are ours[at + i at_step], i in [0, count); `at` counts in the block, row-major.
struct HfRun {
  std::int64_t first = 0, step = 1, count = 0, at = 0, at_step = 1;
  std::int64_t span() const { return (count - 1) * step + 1; }  // of theirs, from first to the last one
};

// The runs of a block inside the box of `piece`, each as long as it can be along the direction in which theirs lie closest.
void for_each_hf_run(const HfTensor& piece, const Box& block, const std::function<void(const HfRun&)>& run);

// Blocks of a box that have at most `most` elements each (at least one row, unless theirs are transposed) and runs as long
// as that allows.
std::vector<Box> hf_blocks(const HfTensor& piece, const Box& box, std::int64_t most);

}  // namespace moe
