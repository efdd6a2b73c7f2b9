// Checks of a checkpoint that read its bytes. Not here: checks of the manifest alone (manifest.h).
#pragma once

#include <functional>
#include <string>

#include "lib/io/h5.h"
#include "lib/io/manifest.h"

namespace moe {

std::string file_digest(const std::string& path);  // XXH3-128, read in pieces
// Names, sizes and digests of all files: Error 66 or 65.
void verify_files(const Manifest& manifest, const std::string& directory);
// Every slice, read back from the shards, has the digest that the manifest says: Error 65 naming tensor and slice.
void verify_slices(const Manifest& manifest, const std::string& directory);

// Where the elements of a slice lie in its file, and their digest.
struct SliceBytes {
  std::int64_t begin = 0, end = 0;
  std::string digest;
  std::string label;                  // file, tensor and slice, for messages
  std::size_t tensor = 0, slice = 0;  // in the manifest
};
// Of all slices in one file, ordered by place. Opens the shard as a reader would.
std::vector<SliceBytes> slice_bytes(const Manifest& manifest, std::size_t file, const std::string& directory);
// Reads a file once in pieces of block_bytes: Error 65 naming the first slice that has another digest. Returns the digest of
// the file. Without HDF5, so by several threads at once.
std::string verify_bytes(const std::string& path, const std::vector<SliceBytes>& slices, std::int64_t block_bytes);

// Opens a shard and checks that it belongs to the same save as the manifest (65).
H5Reader open_shard(const Manifest& manifest, std::size_t file, const std::string& directory);
// The dataset of a slice, with the type and the extents that the manifest says (65).
H5Dataset slice_dataset(const H5Reader& shard, const ManifestTensor& tensor, const ManifestSlice& slice,
                        const std::string& path);
// Reads a slice whole into `out` and checks its digest (65).
void read_slice(const H5Reader& shard, const ManifestTensor& tensor, const ManifestSlice& slice, const std::string& path,
                void* out);
// The same in blocks of whole rows (dimension 0) of at most block_bytes, at least one row: take(box, elements) for each, the
// box in the coordinates of the tensor. The digest of all is checked after the last.
void read_slice_in_blocks(const H5Reader& shard, const ManifestTensor& tensor, const ManifestSlice& slice,
                          const std::string& path, std::int64_t block_bytes,
                          const std::function<void(const Box&, const std::byte*)>& take);

}  // namespace moe
