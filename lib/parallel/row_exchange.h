// The two collectives of sharded tensors over a group: gather whole tensors from their shards, and sum whole tensors into
// shards. A tensor is a matrix of `rows` rows, cut as Cut{rank, group size} cuts them; shards may be empty. A list of
// tensors travels in one batch of messages. Called in tasks of the lane, by every rank of the group, with the same sizes.
// Not here: which tensors, and where their memory comes from (units.cpp).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/kernels.h"
#include "lib/comm/comm.h"

namespace moe {

// A tensor to be filled from its shards. `own`: this rank's shard; may be its place in `whole`.
struct GatherRows {
  std::byte* whole;
  const void* own;
  std::int64_t rows;
  std::size_t row_bytes;
};
// whole (=) the shards of all ranks.
void gather_rows(Comm& comm, const char* what, std::span<const GatherRows> tensors, Stream& stream);

// A tensor that every rank has a contribution to. `sum`: where the sum of this rank's shard goes; may be its place in
// `whole`.
struct ReduceRows {
  const float* whole;
  float* sum;
  std::int64_t rows, cols;
};
// sum (= or +=) the contributions of all ranks to the shard of this rank, added up in the order of the ranks. The tensors
// travel in chunks, one on its way while the one before is summed; staging: staging_floats() of them, or more.
void reduce_rows(Comm& comm, const char* what, std::span<const ReduceRows> tensors, Store store, std::span<float> staging,
                 Env env);

// For shards of at most `shard_floats` floats over all tensors of a list.
std::int64_t staging_floats(int group_size, std::int64_t shard_floats);

}  // namespace moe
