// Checkpoints: a directory step-00001000/ of HDF5 shard files and a manifest written last (DESIGN 7, man/moe-files.5).
// Published atomically: temporary directory -> files fsynced -> manifest fsynced -> rename -> `latest`. Killed at any
// instant, the newest complete checkpoint stays loadable. Not here: what the tensors mean (lib/run/train_state.h).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace moe {

// One contiguous box of a logical tensor, in the memory of this process. Names are logical ("layers.3.experts.down");
// dimension 0 of an expert tensor is the logical expert id. Several slices may make up one tensor; together they must
// cover it exactly once.
struct TensorSlice {
  std::string name;
  std::string role;  // weight, master, m, v, bias, counter
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

// Writes run_dir/step-NNNNNNNN and moves `latest`. `state` is stored in the manifest as it is (config, step, counters,
// data position, options); `provenance` is the chain of DESIGN 7. Throws Error 73/74 (disk full, ...) after removing
// its temporary directory; then older checkpoints are untouched. A complete directory of the same step with the same
// digest is kept as it is; with another digest: Error 73 unless force.
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

// `path` is a checkpoint directory, or a run directory (its `latest`, else its newest complete checkpoint; a broken one is
// passed over with a warning). Checks manifest, sizes and completeness. Throws Error 66 if there is none, 65 if broken.
CheckpointInfo open_checkpoint(const std::string& path);
// True if run_dir holds a complete checkpoint.
bool has_checkpoint(const std::string& run_dir);

// Fills every slice, checking digests and exact coverage in both directions: a tensor of the file that no slice wants
// and a slice that the file does not fill are errors (65) naming all of both, unless its role is in `roles_to_ignore`.
void load_checkpoint(const CheckpointInfo& info, const std::vector<TensorSlice>& slices,
                     const std::vector<std::string>& roles_to_ignore = {});

}  // namespace moe
