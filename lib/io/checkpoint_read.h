// The pieces of loading, for who reads a checkpoint together with others: which boxes are wanted, and filling them from
// slices that were read. Not here: the whole of it for one process (load_checkpoint, checkpoint.h).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/io/checkpoint.h"
#include "lib/io/h5.h"
#include "lib/io/manifest.h"

namespace moe {

// A box that is wanted, and how many of its elements the files have given.
struct Wanted {
  const TensorSlice* slice;
  Box box;
  std::int64_t filled = 0;
};

// Every slice has a tensor of its shape and dtype, and every tensor has a slice; else Error 65 with all of both. Roles in
// `roles_to_ignore` may be missing on either side.
void check_names(const std::string& path, const Manifest& manifest, const std::vector<TensorSlice>& slices,
                 const std::vector<std::string>& roles_to_ignore);

// By the index of the tensor in the manifest; slices of extent 0, and of tensors that are not there, are left out.
std::map<std::size_t, std::vector<Wanted>> wanted_boxes(const Manifest& manifest, const std::vector<TensorSlice>& slices);

// Those that have some of `box`.
std::vector<Wanted*> sharing(std::vector<Wanted>& list, const Box& box);

// Elements of `box` that `wanted` shares: copied, counted.
void give(const std::byte* elements, const Box& box, std::size_t element_bytes, Wanted& wanted);

// Reads a slice whole, checking its digest, into the wanted boxes that share some of it: in place if it is all of one of
// them, else through blocks.
void fill_from_slice(const H5Reader& shard, const ManifestTensor& tensor, const ManifestSlice& slice,
                     const std::vector<Wanted*>& wanted, const std::string& path);

// The keeper of a run directory may remove what is being read: a file is missing and the manifest is no longer there
// either. Then an Error (75) that says so.
std::optional<Error> removed_while_reading(const Error& error, const std::string& directory);

// Opens the shards of a checkpoint as they are needed, one at a time.
class ShardReader {
 public:
  ShardReader(const Manifest& manifest, std::string directory) : manifest_(manifest), directory_(std::move(directory)) {}
  // Error 75 if the checkpoint was removed meanwhile.
  const H5Reader& open(std::size_t file);
  std::string path(std::size_t file) const { return directory_ + "/" + manifest_.files[file].name; }

 private:
  const Manifest& manifest_;
  std::string directory_;
  std::size_t file_ = 0;
  std::unique_ptr<H5Reader> shard_;
};

// Error 65 unless every wanted element was given.
void check_filled(const Manifest& manifest, const std::map<std::size_t, std::vector<Wanted>>& wanted,
                  const std::string& path);

}  // namespace moe
