// Which boxes of two lists meet, and whether the boxes of one list meet each other: linear (after sorting) for boxes that
// are runs of neighbouring elements, as all cuts of these tools are; near-linear for any others that planes can separate.
// Pure arithmetic. Not here: what is copied between them (reshard_plan.h).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "lib/io/box.h"

namespace moe {

// [begin, end) of row-major indices if the elements of the box are neighbours in an array of `shape`.
struct IndexRange {
  std::int64_t begin = 0, end = 0;
};
std::optional<IndexRange> contiguous_range(const std::vector<std::int64_t>& shape, const Box& box);

// meet(i, j) once for each pair a[i], b[j] with a common element, in no promised order; false from it ends the search. All
// boxes lie in `shape` and hold an element at least.
void for_each_meeting(const std::vector<std::int64_t>& shape, const std::vector<Box>& a, const std::vector<Box>& b,
                      const std::function<bool(std::size_t, std::size_t)>& meet);

// True if two boxes of the list have an element in common.
bool any_overlap(const std::vector<std::int64_t>& shape, const std::vector<Box>& boxes);

}  // namespace moe
