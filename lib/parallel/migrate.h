// The state of a model from one placement of its experts to another, while a job runs: masters, moments and averages
// together, from the rank that speaks for an expert to every rank that shall hold it. Weights follow from masters. Not here:
// which placement (lib/place), files (lib/run/mesh_load.h).
#pragma once

#include <vector>

#include "lib/comm/comm.h"
#include "lib/tensor/param.h"

namespace moe {

// How each rank of the dense group cuts the model.
using RankLayouts = std::vector<ParamLayout>;

// to (=) from. Both are of the same model, dtype and dense cut. `dense`: all ranks of the replica; nullptr: one rank, whose
// experts are the same. In a task of the lane, on every rank of the group. The caller says that weights have changed.
void migrate_state(const ParamStore& from, const RankLayouts& from_layouts, ParamStore& to, const RankLayouts& to_layouts,
                   Comm* dense);

// A sum over everything that this rank speaks for, of numbers mixed from tensor, kind, place and bits: the sum over all
// ranks of a replica does not depend on who holds what, and changes when anything is lost, doubled or mixed up.
std::uint64_t state_fingerprint(const ParamStore& store);

}  // namespace moe
