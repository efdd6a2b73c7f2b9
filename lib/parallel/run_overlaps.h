// Where parts of a tensor that two ranks hold meet. Not here: what is sent (copy_gradients.h, migrate.h).
#pragma once

#include <vector>

#include "lib/tensor/param.h"

namespace moe {

// `count` elements from a_at of shard a are those from b_at of shard b.
struct RunOverlap {
  std::int64_t a_at, b_at, count;
};
// Of runs of one tensor, in the order of the tensor's elements: the same for (a, b) and, with the sides exchanged, (b, a).
// No two runs of a side may share an element.
std::vector<RunOverlap> overlaps(std::vector<ShardRun> a, std::vector<ShardRun> b);

}  // namespace moe
