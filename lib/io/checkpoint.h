// Checkpoints: a directory step-00001000/ of HDF5 shard files and a manifest written last (DESIGN 7, man/moe-files.5).
// Published atomically: temporary directory -> files fsynced -> manifest fsynced -> rename -> `latest`. Killed at any
// instant, the newest complete checkpoint stays loadable. Several processes write one checkpoint together, each a file of
// its own, in three calls; texts pass between them. Not here: what the tensors mean (lib/run/train_state.h), how the texts
// travel.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace moe {

// One contiguous box of a logical tensor, in the memory of this process. Names are logical ("layers.3.experts.down");
// dimension 0 of an expert tensor is the logical expert id. Several slices may make up one tensor; those of a save together,
// of all processes, must cover it exactly once. A slice of extent 0 says only that the tensor is there.
struct TensorSlice {
  std::string name;
  std::string role;  // weight, master, m, v, ema, bias, counter
  DType dtype = DType::kF32;
  std::vector<std::int64_t> shape;   // of the whole tensor
  std::vector<std::int64_t> offset;  // of this box
  std::vector<std::int64_t> extent;  // of this box, contiguous in memory in row-major order
  void* data = nullptr;              // read by save, written by load
};

struct KeepPolicy {
  int keep_last = 2;            // newest complete checkpoints that stay; at least 1
  std::int64_t keep_every = 0;  // steps divisible by this are never deleted; 0 = none
};

struct SavedCheckpoint {
  std::string path;    // the published directory
  std::string digest;  // layout-independent digest of all tensors, hex
  std::int64_t bytes = 0;
};

// A checkpoint that is being written: a temporary directory in the run directory. All that another process must know to
// write a part of it.
struct CheckpointDraft {
  std::string run_dir, directory;
  std::string nonce;  // of the save; in every file
  std::int64_t step = 0;
  int num_parts = 1;  // processes that write; each calls write_part once

  std::string text() const;                               // JSON
  static CheckpointDraft parse(const std::string& text);  // of text(); else Error(kInternal)
};

// Bytes of all tensors that the slices name, whole: the size of the checkpoint.
std::int64_t total_bytes(const std::vector<TensorSlice>& slices);

// 1. One process makes run_dir and the temporary directory in it. Error 74 if there is no room for total_bytes, 73 if it
// cannot be made.
CheckpointDraft begin_checkpoint(const std::string& run_dir, std::int64_t step, int num_parts, std::int64_t total_bytes);
// 2. Each writer, part = 0 .. num_parts - 1, writes shard-NNNNN.h5 (none if its slices hold no element), syncs it and reads
// it back. Returns a report for publish_checkpoint (JSON). Error 76 naming an element that is not finite; 73, 74 as
// usual. After an error on any writer: abandon_checkpoint.
std::string write_part(const CheckpointDraft& draft, int part, const std::vector<TensorSlice>& slices);
// 3. The process that began joins the reports, publishes run_dir/step-NNNNNNNN, moves `latest` and removes what `keep` does
// not keep. `state` is stored in the manifest as it is (config, step, counters, data position, options); `provenance` is
// the chain of DESIGN 7. A complete directory of the same step with the same digest is kept as it is; with another digest:
// Error 73 unless force. Error(kInternal) naming the part that is missing, or the tensor that the parts do not hold exactly
// once. The temporary directory is gone when it returns or throws.
SavedCheckpoint publish_checkpoint(const CheckpointDraft& draft, const std::vector<std::string>& reports,
                                   const nlohmann::json& state, const nlohmann::json& provenance, const KeepPolicy& keep,
                                   bool force);
// Removes the temporary directory; older checkpoints are untouched. Never throws.
void abandon_checkpoint(const CheckpointDraft& draft) noexcept;

// The three in one process. What is there with the same digest is kept without writing.
SavedCheckpoint save_checkpoint(const std::string& run_dir, std::int64_t step, const nlohmann::json& state,
                                const nlohmann::json& provenance, const std::vector<TensorSlice>& slices,
                                const KeepPolicy& keep, bool force);

struct CheckpointInfo {
  std::string path;
  std::int64_t step = 0;
  nlohmann::json state;
  nlohmann::json provenance;
  struct Tensor {
    std::string name, role;
    DType dtype;
    std::vector<std::int64_t> shape;
  };
  std::vector<Tensor> tensors;
  std::string digest;
};

struct Manifest;
CheckpointInfo info_of(const Manifest& manifest, const std::string& path);

// What makes a checkpoint of a run directory good enough to be taken: files of the right sizes, or bytes with the digests
// of the manifest, which reads all of them.
enum class CheckpointCheck { kSizes, kBytes };
// `path` is a checkpoint directory, or a run directory (its `latest`, else its newest that passes the check; a broken one is
// passed over with a warning). Of a checkpoint that was named the sizes are checked alone: loading checks what it reads.
// Throws Error 66 if there is none, 65 if broken.
CheckpointInfo open_checkpoint(const std::string& path, CheckpointCheck check = CheckpointCheck::kBytes);
// What to try in a run directory: what `latest` names, but before it newer ones that the same process or a later one
// published (it was killed before it moved `latest`); then the others, the newest step first. Paths; complete or not.
std::vector<std::string> checkpoint_candidates(const std::string& run_dir);
// True if run_dir has the directory of a checkpoint, complete or not. Error 74 if that cannot be found out.
bool has_checkpoint(const std::string& run_dir);

// Fills every slice, whole, checking digests. The slices may be any boxes: a process asks for what it holds and reads only
// the files that have some of it. But it names every tensor of the model, if only by a slice of extent 0: a tensor of the
// file that no slice names, one that the file does not have or has with another shape or dtype, and a slice that was not
// filled are errors (65) naming all of them, unless its role is in `roles_to_ignore`. Error 75 if the checkpoint was removed
// while it was read.
void load_checkpoint(const CheckpointInfo& info, const std::vector<TensorSlice>& slices,
                     const std::vector<std::string>& roles_to_ignore = {});

}  // namespace moe
