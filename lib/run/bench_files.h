// Raw figures of a disk, against which writing, reading and resharding checkpoints are held: write + fsync of so many bytes,
// and a copy of files as cp makes it. Shared by `moe-bench checkpoint` and `moe-bench reshard`. Not here: checkpoints.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/io/checkpoint.h"

namespace moe {

// A directory of its own inside `parent` that goes away with all that is in it.
class ScratchDirectory {
 public:
  explicit ScratchDirectory(const std::string& parent);
  ~ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Seconds to write `bytes` of random data to one new file in pieces of 1 MiB and to sync it. The file is removed.
double raw_write_seconds(const std::string& directory, std::int64_t bytes);
// Seconds to copy the files one after the other into new ones in `directory`, each read, written and synced, as `cp && sync`
// does. The copies are removed.
double raw_copy_seconds(const std::vector<std::string>& files, const std::string& directory);

// Random finite fp32 tensors of an expert model, `bytes` in all: a dense and an expert tensor, each with moments.
class SyntheticState {
 public:
  explicit SyntheticState(std::int64_t bytes);
  // What is there of all tensors, whole.
  const std::vector<TensorSlice>& slices() const { return slices_; }
  std::int64_t bytes() const { return bytes_; }

 private:
  std::vector<std::vector<std::uint32_t>> data_;
  std::vector<TensorSlice> slices_;
  std::int64_t bytes_ = 0;
};

}  // namespace moe
