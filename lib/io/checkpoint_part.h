// What one writer gives to a checkpoint: its slices with digests, its file, as JSON text between processes, and the manifest
// that all of them make together. Not here: writing files (checkpoint_save.cpp).
#pragma once

#include <span>
#include <string>
#include <vector>

#include "lib/io/checkpoint.h"
#include "lib/io/digest.h"
#include "lib/io/manifest.h"

namespace moe {

struct CheckpointPart {
  int index = 0;
  std::string nonce;                    // of the save
  std::vector<ManifestFile> files;      // one; none where no element was given
  std::vector<ManifestTensor> tensors;  // ordered by (name, role); digest: of the elements given here; slices: in file 0
};

// A slice and the dataset it is written to; tensors[tensor].slices[entry] describes it.
struct PlacedSlice {
  const TensorSlice* slice;
  std::string dataset;
  std::size_t tensor, entry;
};

std::size_t bytes_of(const TensorSlice& slice);

// Tensors of what a writer holds, without digests; `placed` = what is to be written, in the order of writing. A tensor of
// which there is no element here is listed without slices. Error(kInternal) for boxes that cannot be.
std::vector<ManifestTensor> arrange_slices(const std::vector<TensorSlice>& slices, std::vector<PlacedSlice>& placed);

// Digests of one slice whose elements come in pieces, in their order.
class SliceDigest {
 public:
  SliceDigest(const ManifestTensor& tensor, const TensorSlice& slice);
  // The elements that follow those added before. Error(kNumeric) naming one that is not finite.
  void add(std::span<const std::byte> elements);
  Digest elements() const { return sum_.value(); }  // ElementSum of what was added
  std::string bytes() const { return bytes_.digest().hex(); }

 private:
  template <class Bits>
  void add_bits(std::span<const Bits> bits);
  const TensorSlice& slice_;
  Box box_, whole_;
  ElementSum sum_;
  Xxh3 bytes_;
  std::int64_t at_ = 0;
};

// The same with digests, of slices in memory.
std::vector<ManifestTensor> describe_slices(const std::vector<TensorSlice>& slices);

std::string part_text(const CheckpointPart& part);
CheckpointPart parse_part(const std::string& text);  // Error(kInternal): only our own processes write it

// Files, tensors, slices and digests of the whole. Error(kInternal) naming the part that is missing or there twice, or the
// tensor that the parts disagree about or do not hold exactly once.
Manifest join_parts(const CheckpointDraft& draft, const std::vector<CheckpointPart>& parts);

}  // namespace moe
