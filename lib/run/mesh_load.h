// Loading a checkpoint on the ranks of a mesh, whatever mesh wrote it. The manifest is read once, by rank 0, and sent. The
// ranks of the first replica read; what several of them on one node need of a slice is read by one of them and sent to the
// others; the other replicas get their shards from the first. Every slice that is read is checked against its digest.
// Collective calls; a failure of one rank is thrown on all, and the model is then partly filled.
// Not here: reading a slice (lib/io/checkpoint_read.h), the choice of the checkpoint (lib/run/resume.h).
#pragma once

#include "lib/io/checkpoint_read.h"
#include "lib/run/train_state.h"

namespace moe {

// The manifest of the checkpoint at `path` as rank 0 finds it, with all files of their sizes. 66, 65.
Manifest manifest_on_mesh(World& world, const std::string& path);

// What differs from the model's (LoadedState) is logged.
void load_on_mesh(Model& model, const Manifest& manifest, const std::string& path);

// Weights and router biases alone (load_weights), each rank what it holds.
void load_weights_on_mesh(Model& model, const CheckpointInfo& info, WeightsFrom from_role = WeightsFrom::kWeights,
                          bool drops_modules = false);

// One rank's wish for a box of a tensor of the manifest.
struct TensorWish {
  std::size_t tensor = 0;
  Box box;
};
// Slice `slice` of tensor `tensor` is read by member `reader` and wanted by `members`, ascending.
struct SharedRead {
  std::size_t tensor = 0, slice = 0;
  int reader = 0;
  std::vector<int> members;
};
// Who reads what, of each slice that somebody wants some of: a member that wants it, the one that has least to read so far.
// The same on every member.
std::vector<SharedRead> plan_reads(const Manifest& manifest, const std::vector<std::vector<TensorWish>>& member2wishes);

}  // namespace moe
