// The plan of a change of layout: which part of which source slice goes into which target slice. Pure arithmetic, linear in
// slices (after sorting). Not here: reading and writing (lib/run/reshard_layout.cpp), where targets come from
// (lib/run/target_layout.h).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "lib/io/box.h"

namespace moe {

struct FileBox {
  std::size_t file = 0;
  Box box;
};

// One tensor as it lies in the source and as it is wanted.
struct ReshardTensor {
  std::string label;  // for messages
  std::vector<std::int64_t> shape;
  std::vector<FileBox> sources, targets;  // targets may leave some of the tensor out, and may overlap
};

// All that a source slice gives to a target slice.
struct ReshardCopy {
  std::size_t tensor = 0, source = 0, target = 0;  // indices into the list of tensors, its sources, its targets
  Box box;                                         // in the coordinates of the tensor
};

struct ReshardPlan {
  // By target file; in each by tensor, target slice, and place of its first element there: the order of writing, and with
  // sources in the same order of tensors that of reading each source file.
  std::vector<std::vector<ReshardCopy>> files;
};

// Every element of every target comes from exactly one source. Error(kBadInput) naming a tensor whose sources overlap or lie
// outside of it, or do not give all of a target.
ReshardPlan plan_reshard(const std::vector<ReshardTensor>& tensors, std::size_t num_target_files);

// Calls run(source_at, target_at, count) for the maximal runs of elements of `box` that are neighbours in both frames (boxes
// that hold it, each row-major by itself), in the order of the target, as far as target_at lies in [begin, end) (a run may
// be cut there).
void for_each_common_run(const Box& box, const Box& source, const Box& target, std::int64_t begin, std::int64_t end,
                         const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& run);

}  // namespace moe
