#include "lib/io/box.h"

#include <algorithm>
#include <cstring>

#include "lib/base/error.h"
#include "lib/io/box_pairs.h"

namespace moe {

std::string joined(const std::vector<std::int64_t>& values) {
  std::string text;
  for (const std::int64_t v : values) text += (text.empty() ? "" : ",") + std::to_string(v);
  return text;
}

std::int64_t elements_of(const std::vector<std::int64_t>& extent) {
  if (std::find(extent.begin(), extent.end(), 0) != extent.end()) return 0;
  std::int64_t n = 1;
  for (const std::int64_t e : extent)
    if (e < 0 || __builtin_mul_overflow(n, e, &n))
      throw Error(Exit::kBadInput, "shape [" + joined(extent) + "] is impossible");
  return n;
}

bool boxes_meet(const Box& a, const Box& b) {
  for (std::size_t d = 0; d < a.offset.size(); ++d)
    if (a.offset[d] >= b.offset[d] + b.extent[d] || b.offset[d] >= a.offset[d] + a.extent[d]) return false;
  return true;
}

Box intersection(const Box& a, const Box& b) {
  Box c = a;
  for (std::size_t d = 0; d < a.offset.size(); ++d) {
    c.offset[d] = std::max(a.offset[d], b.offset[d]);
    c.extent[d] = std::min(a.offset[d] + a.extent[d], b.offset[d] + b.extent[d]) - c.offset[d];
  }
  return c;
}

// Inside, disjoint, and as many elements as the whole: then each element once.
std::string coverage_fault(const std::vector<std::int64_t>& shape, const std::vector<Box>& boxes) {
  const std::int64_t whole = elements_of(shape);
  std::int64_t covered = 0;
  for (const Box& b : boxes) {
    for (std::size_t d = 0; d < shape.size(); ++d)
      if (b.offset[d] < 0 || b.extent[d] < 1 || b.extent[d] > shape[d] || b.offset[d] > shape[d] - b.extent[d])
        return "a slice lies outside of its shape [" + joined(shape) + "]";
    covered += elements_of(b.extent);
    if (covered > whole) return "its slices hold more than its " + std::to_string(whole) + " elements";
  }
  if (covered != whole) return "expected slices of " + std::to_string(whole) + " elements, found " + std::to_string(covered);
  if (any_overlap(shape, boxes)) return "its slices overlap";
  return "";
}

Run run_at(const std::vector<std::int64_t>& shape, const Box& box, std::int64_t at) {
  // Dimensions from `split` on are whole, so they and dimension split - 1 make one run.
  std::size_t split = shape.size();
  while (split > 0 && box.extent[split - 1] == shape[split - 1]) --split;
  std::int64_t run = 1, first = 0, stride = 1, left = at;
  for (std::size_t d = split == 0 ? 0 : split - 1; d < shape.size(); ++d) run *= box.extent[d];
  for (std::size_t d = shape.size(); d-- > 0; stride *= shape[d], left /= box.extent[d])
    first += (box.offset[d] + left % box.extent[d]) * stride;
  return {first, run - at % run};
}

void for_each_run(const std::vector<std::int64_t>& shape, const Box& box,
                  const std::function<void(std::int64_t, std::int64_t)>& run) {
  const std::int64_t all = elements_of(box.extent);
  for (std::int64_t at = 0; at < all;) {
    const Run r = run_at(shape, box, at);
    run(r.first, r.count);
    at += r.count;
  }
}

void copy_common(const std::byte* from, const Box& from_box, std::byte* to, const Box& to_box, std::size_t element_bytes) {
  const Box common = intersection(from_box, to_box);
  // Common part in the coordinates of each buffer, as the same sequence of rows along the last dimension.
  const auto rows_in = [&](const Box& frame) {
    Box local = common;
    for (std::size_t d = 0; d < local.offset.size(); ++d) local.offset[d] -= frame.offset[d];
    std::vector<std::int64_t> firsts;
    const std::int64_t width = common.extent.empty() ? 1 : common.extent.back();
    for_each_run(frame.extent, local, [&](std::int64_t first, std::int64_t count) {
      for (std::int64_t i = 0; i < count; i += width) firsts.push_back(first + i);
    });
    return firsts;
  };
  const std::vector<std::int64_t> source = rows_in(from_box), target = rows_in(to_box);
  const std::size_t row_bytes = static_cast<std::size_t>(common.extent.empty() ? 1 : common.extent.back()) * element_bytes;
  for (std::size_t r = 0; r < source.size(); ++r)
    std::memcpy(to + static_cast<std::size_t>(target[r]) * element_bytes,
                from + static_cast<std::size_t>(source[r]) * element_bytes, row_bytes);
}

}  // namespace moe
