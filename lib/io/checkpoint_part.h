// What one writer gives to a checkpoint: its slices with digests, its file, as JSON text between processes, and the manifest
// that all of them make together. Not here: writing files (checkpoint_save.cpp).
#pragma once

#include <string>
#include <vector>

#include "lib/io/checkpoint.h"
#include "lib/io/manifest.h"

namespace moe {

struct CheckpointPart {
  int index = 0;
  std::string nonce;                    // of the save
  std::vector<ManifestFile> files;      // one; none where no element was given
  std::vector<ManifestTensor> tensors;  // ordered by (name, role); digest: of the elements given here; slices: in file 0
};

// A slice and the dataset it is written to.
struct PlacedSlice {
  const TensorSlice* slice;
  std::string dataset;
};

std::size_t bytes_of(const TensorSlice& slice);

// What a writer holds, without digests; `placed` = what is to be written, in the order of writing, which is that of the
// tensors and their slices. A tensor of which there is no element here is listed without slices. Error(kInternal) for boxes
// that cannot be.
std::vector<ManifestTensor> place_slices(const std::vector<TensorSlice>& slices, std::vector<PlacedSlice>& placed);
// Fills the digests of the slices, and of the elements given here. Error(kNumeric) for elements that are not finite.
void digest_slices(const std::vector<PlacedSlice>& placed, std::vector<ManifestTensor>& tensors);
// Both.
std::vector<ManifestTensor> describe_slices(const std::vector<TensorSlice>& slices, std::vector<PlacedSlice>& placed);

std::string part_text(const CheckpointPart& part);
CheckpointPart parse_part(const std::string& text);  // Error(kInternal): only our own processes write it

// Files, tensors, slices and digests of the whole. Error(kInternal) naming the part that is missing or there twice, or the
// tensor that the parts disagree about or do not hold exactly once.
Manifest join_parts(const CheckpointDraft& draft, const std::vector<CheckpointPart>& parts);

}  // namespace moe
