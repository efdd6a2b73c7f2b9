// Which slices of a checkpoint go into which file: as the ranks of a mesh would write them, in so many files of even size,
// or as they lie in another checkpoint. Not here: what moves where (lib/io/reshard_plan.h), the bytes.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lib/base/placement.h"
#include "lib/comm/mesh.h"
#include "lib/io/checkpoint.h"
#include "lib/io/manifest.h"

namespace moe {

struct TargetLayout {
  std::vector<std::vector<TensorSlice>> parts;  // by number of the writer; each ordered by (name, role, place); no data
  std::string text;                             // "4 files as of replicate 1 x shard 2 x ep 2"
  std::optional<MeshShape> mesh;                // whose ranks would write them
  Placement plan;                               // that the ranks follow; without layers: none
};

// A resumed run on that mesh, with that plan (without layers: none), finds what each rank holds in a file of its own; copies
// of experts are written where they are spoken for. `tensors`: without slices.
TargetLayout mesh_layout(const std::vector<ManifestTensor>& tensors, const MeshShape& mesh, const Placement& plan = {});
// True if the plan is of the experts and layers of these tensors.
bool is_plan_of(const Placement& plan, const std::vector<ManifestTensor>& tensors);
// Parts that differ by at most a row of a tensor.
TargetLayout even_layout(const std::vector<ManifestTensor>& tensors, int num_files);
// The slices and files of a checkpoint, as they are.
TargetLayout same_layout(const Manifest& source);

// The mesh whose ranks would write the files of this checkpoint, with the plan of its state if it has one; of several the
// one with the largest ep.
std::optional<MeshShape> mesh_of(const Manifest& source);
// "4 files, mesh shard 2 x ep 2"
std::string layout_text(const Manifest& source);

}  // namespace moe
