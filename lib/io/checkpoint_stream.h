// Writing shard files of a checkpoint whose data come block by block: the slices are known first, the blocks are asked for,
// digested while they are hot, and written, by several threads with bounded memory. While one file is synced and read back
// the next is written. Not here: publication (checkpoint.h), where blocks come from.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/io/checkpoint.h"

namespace moe {

// Elements [first, first + count) of slices[slice] in its row-major order: put into `buffer`, which is that large, or in
// memory of the caller's that stays until the next call of the thread. Called by several threads at once, for one slice in
// ascending order by one thread (number `thread`, below StreamOptions::threads).
using GiveBlock = std::function<std::span<const std::byte>(std::size_t slice, std::int64_t first, std::int64_t count,
                                                           std::span<std::byte> buffer, std::size_t thread)>;

struct StreamOptions {
  int threads = 1;
  std::int64_t memory_bytes = std::int64_t{8} << 20;  // most that all buffers take together
};

class CheckpointStream {
 public:
  // Error(kUsage) if memory_bytes is too small for the threads.
  CheckpointStream(const CheckpointDraft& draft, const StreamOptions& options);
  ~CheckpointStream();

  // Writes shard-NNNNN.h5 of this part (none if its slices hold no element). TensorSlice::data is not looked at. `slices`
  // must stay until finish(). Errors as write_part of checkpoint.h; one of the sync or the reading back may come with a
  // later call.
  void write_part(int part, const std::vector<TensorSlice>& slices, const GiveBlock& give);
  // All files are on the disk and read back. The reports of the parts for publish_checkpoint, in the order of the calls.
  std::vector<std::string> finish();

  std::int64_t block_bytes() const { return block_bytes_; }  // the largest buffer that GiveBlock gets

 private:
  struct Part;
  void write_slices(Part& part, const std::vector<TensorSlice>& slices, const GiveBlock& give);
  void close(Part& part);  // to be called when the next file has been written
  CheckpointDraft draft_;
  int threads_;
  std::int64_t block_bytes_;
  std::vector<std::vector<std::byte>> buffers_;  // one a thread
  std::deque<std::unique_ptr<Part>> parts_;
  std::vector<std::string> reports_;
};

}  // namespace moe
