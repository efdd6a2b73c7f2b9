#include "lib/run/hf_runs.h"

#include <algorithm>
#include <cmath>

#include "lib/run/hf_stream.h"

namespace moe {
namespace {

using Shape = std::vector<std::int64_t>;

Shape row_major_steps(const Shape& extent) {
  Shape step(extent.size(), 1);
  for (std::size_t d = extent.size(); d-- > 1;) step[d - 1] = step[d] * extent[d];
  return step;
}

// The direction in which theirs lie closest.
std::size_t closest(const Shape& step) {
  return static_cast<std::size_t>(std::min_element(step.begin(), step.end()) - step.begin());
}

bool is_transposed(const HfTensor& piece) {
  return !piece.step.empty() && piece.box.extent.back() > 1 && closest(piece.step) + 1 != piece.step.size();
}

void plain_runs(const HfTensor& piece, const Box& block, const std::function<void(const HfRun&)>& run) {
  std::int64_t at = 0;
  for_each_run(piece.box.extent, relative_to(block, piece.box.offset), [&](std::int64_t first, std::int64_t n) {
    run({.first = piece.first + first, .count = n, .at = at});
    at += n;
  });
}

}  // namespace

void for_each_hf_run(const HfTensor& piece, const Box& block, const std::function<void(const HfRun&)>& run) {
  if (piece.step.empty()) return plain_runs(piece, block, run);
  const Shape ours = row_major_steps(block.extent);
  Shape step = piece.step;
  for (std::size_t d = 0; d < step.size(); ++d)
    if (piece.box.extent[d] == 1) step[d] = INT64_MAX;  // no direction
  const std::size_t along = closest(step);
  Box line = relative_to(block, piece.box.offset);
  const Shape from = line.offset;
  const std::int64_t lines = elements_of(line.extent) / line.extent[along];
  for (std::int64_t i = 0; i < lines; ++i) {
    HfRun r{.first = piece.first + from[along] * piece.step[along],
            .step = piece.step[along],
            .count = line.extent[along],
            .at_step = ours[along]};
    std::int64_t rest = i;
    for (std::size_t d = from.size(); d-- > 0;) {
      if (d == along) continue;
      const std::int64_t index = rest % line.extent[d];
      rest /= line.extent[d];
      r.first += (from[d] + index) * piece.step[d], r.at += index * ours[d];
    }
    run(r);
  }
}

std::vector<Box> hf_blocks(const HfTensor& piece, const Box& box, std::int64_t most) {
  std::vector<Box> blocks;
  std::int64_t width = box.extent.empty() ? 1 : box.extent.back();
  if (is_transposed(piece))
    width = std::max<std::int64_t>(1, static_cast<std::int64_t>(std::sqrt(static_cast<double>(most))));
  if (box.extent.empty() || width >= box.extent.back()) {
    cut_box(box, most, blocks);
    return blocks;
  }
  for (std::int64_t at = 0; at < box.extent.back(); at += width) {
    Box part = box;
    part.offset.back() += at;
    part.extent.back() = std::min(width, box.extent.back() - at);
    cut_box(part, most, blocks);
  }
  return blocks;
}

}  // namespace moe
