// The elements of the output, block by block out of the files of the inputs. Not here: what is wanted (reshard_content.h),
// the plan (lib/io/reshard_plan.h), writing (lib/io/checkpoint_stream.h).
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "lib/io/checkpoint.h"
#include "lib/io/files.h"
#include "lib/io/reshard_plan.h"
#include "lib/run/reshard_content.h"

namespace moe {

struct ReshardInput {
  std::string path;
  Manifest manifest;
};

// Reads elements of slices by their place in the file, from several threads; few files are open at a time.
class SliceReader {
 public:
  explicit SliceReader(const ReshardInput& input);  // opens each file once as a reader of shards would
  void read(std::size_t tensor, std::size_t slice, std::int64_t first, std::span<std::byte> out) const;
  DType dtype(std::size_t tensor) const { return input_.manifest.tensors[tensor].dtype; }
  const Box& box(std::size_t tensor, std::size_t slice) const { return input_.manifest.tensors[tensor].slices[slice].box; }
  // All slices of `tensors` have their digests (65): reads the files first, first + every, ... that hold some of them.
  void verify(const std::vector<bool>& tensors, int first, int every, int threads, std::int64_t memory_bytes) const;

 private:
  std::shared_ptr<const File> file(std::size_t index) const;
  const ReshardInput& input_;
  std::vector<std::vector<std::int64_t>> begin_;  // [tensor][slice]: byte in its file
  mutable std::mutex mutex_;
  mutable std::deque<std::pair<std::size_t, std::shared_ptr<const File>>> open_;
};

class ReshardCopier {
 public:
  // parts: the target slices of the files that this process writes. `inputs` and `content` must stay.
  ReshardCopier(const ReshardContent& content, const std::vector<ReshardInput>& inputs,
                const std::vector<const std::vector<TensorSlice>*>& parts);
  ~ReshardCopier();

  // Elements [first, first + count) of slice `slice` of parts[part], into `out`. By several threads at once.
  void give(std::size_t part, std::size_t slice, std::int64_t first, std::int64_t count, std::span<std::byte> out) const;
  // Bytes that give() takes beside `out`, per byte of it.
  int extra_bytes_per_byte() const;
  const std::deque<SliceReader>& readers() const { return readers_; }

 private:
  void plan_input(std::size_t k, const ReshardInput& input, const std::vector<const std::vector<TensorSlice>*>& parts);
  struct Wanted;  // a target slice: its tensor, and its pieces in each input
  void read(std::size_t input, const Wanted& wanted, std::int64_t first, std::int64_t count, std::byte* out) const;
  const ReshardContent& content_;
  std::deque<SliceReader> readers_;
  std::vector<std::vector<Wanted>> wanted_;  // [part][slice]
  bool all_untouched_ = true;
};

}  // namespace moe
