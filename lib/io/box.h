// Boxes of a row-major array: offset and extent along each dimension (rank 0 is one element). Pure arithmetic.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace moe {

struct Box {
  std::vector<std::int64_t> offset, extent;
};

// Product of the extents; 1 for a scalar. Error 65 if it does not fit.
std::int64_t elements_of(const std::vector<std::int64_t>& extent);
std::string joined(const std::vector<std::int64_t>& values);  // "2,3,4"

bool boxes_meet(const Box& a, const Box& b);
Box intersection(const Box& a, const Box& b);  // of boxes that meet
// "" if the boxes lie in `shape` and hold each element exactly once, else what is wrong.
std::string coverage_fault(const std::vector<std::int64_t>& shape, const std::vector<Box>& boxes);

// Where the at-th element of a box (row-major) lies in an array of `shape`, and how many elements from there on are
// neighbours in both.
struct Run {
  std::int64_t first, count;
};
Run run_at(const std::vector<std::int64_t>& shape, const Box& box, std::int64_t at);

// Calls run(first, count) for the maximal runs of box elements that are neighbours in an array of `shape`, in row-major
// order; `first` is an index into that array. A box that is the whole array is one run.
void for_each_run(const std::vector<std::int64_t>& shape, const Box& box,
                  const std::function<void(std::int64_t first, std::int64_t count)>& run);

// to[x] = from[x] for every x in both boxes; each buffer holds its box alone, row-major.
void copy_common(const std::byte* from, const Box& from_box, std::byte* to, const Box& to_box, std::size_t element_bytes);

}  // namespace moe
