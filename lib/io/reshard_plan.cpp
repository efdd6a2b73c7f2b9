#include "lib/io/reshard_plan.h"

#include <algorithm>
#include <tuple>

#include "lib/base/error.h"
#include "lib/io/box_pairs.h"

namespace moe {
namespace {

std::vector<Box> boxes_of(const std::vector<FileBox>& list) {
  std::vector<Box> boxes;
  boxes.reserve(list.size());
  for (const FileBox& f : list) boxes.push_back(f.box);
  return boxes;
}

[[noreturn]] void refuse(const ReshardTensor& t, const std::string& what) {
  throw Error(Exit::kBadInput, "tensor " + t.label + ": " + what);
}

void check_inside(const ReshardTensor& t, const std::vector<Box>& boxes) {
  for (const Box& b : boxes) {
    bool inside = b.offset.size() == t.shape.size() && b.extent.size() == t.shape.size();
    for (std::size_t d = 0; inside && d < t.shape.size(); ++d)
      inside = b.offset[d] >= 0 && b.extent[d] >= 1 && b.extent[d] <= t.shape[d] && b.offset[d] <= t.shape[d] - b.extent[d];
    if (!inside) refuse(t, "a slice lies outside of its shape [" + joined(t.shape) + "]");
  }
}

// Index of the first element of `box` among those of `frame`.
std::int64_t index_in(const Box& box, const Box& frame) {
  std::int64_t at = 0;
  for (std::size_t d = 0; d < box.offset.size(); ++d) at = at * frame.extent[d] + box.offset[d] - frame.offset[d];
  return at;
}

// Sources are disjoint, so a target is given once where the sizes of what it is given add up to its own.
void plan_tensor(const std::vector<ReshardTensor>& tensors, std::size_t index, ReshardPlan& plan) {
  const ReshardTensor& t = tensors[index];
  const std::vector<Box> sources = boxes_of(t.sources), targets = boxes_of(t.targets);
  check_inside(t, sources);
  check_inside(t, targets);
  if (any_overlap(t.shape, sources)) refuse(t, "its slices overlap");
  std::vector<std::int64_t> given(targets.size(), 0);
  for_each_meeting(t.shape, sources, targets, [&](std::size_t s, std::size_t d) {
    ReshardCopy copy{index, s, d, intersection(sources[s], targets[d])};
    given[d] += elements_of(copy.box.extent);
    plan.files.at(t.targets[d].file).push_back(std::move(copy));
    return true;
  });
  for (std::size_t d = 0; d < targets.size(); ++d)
    if (const std::int64_t whole = elements_of(targets[d].extent); given[d] != whole)
      refuse(t, "box at [" + joined(targets[d].offset) + "]: expected " + std::to_string(whole) + " elements, found " +
                    std::to_string(given[d]));
}

// What a box is inside two frames: leading dimensions that are stepped through, and a run of neighbours for each step.
struct RunShape {
  std::vector<std::int64_t> steps;                 // extents of the dimensions that are stepped through
  std::vector<std::int64_t> in_source, in_target;  // strides of these dimensions
  std::int64_t num_runs = 1, length = 1;
};

RunShape run_shape(const Box& box, const Box& source, const Box& target) {
  RunShape r;
  std::size_t d = box.extent.size();
  bool whole = true;  // all dimensions behind d are whole in both frames
  for (; d > 0 && whole; --d) {
    r.length *= box.extent[d - 1];
    whole = box.extent[d - 1] == source.extent[d - 1] && box.extent[d - 1] == target.extent[d - 1];
  }
  r.steps.assign(box.extent.begin(), box.extent.begin() + static_cast<std::ptrdiff_t>(d));
  r.in_source.assign(d, 1);
  r.in_target.assign(d, 1);
  for (std::size_t k = 0; k < d; ++k) {
    r.num_runs *= r.steps[k];
    for (std::size_t e = k + 1; e < box.extent.size(); ++e) {
      r.in_source[k] *= source.extent[e];
      r.in_target[k] *= target.extent[e];
    }
  }
  return r;
}

// Offset of the run-th run by the strides of a frame.
std::int64_t run_offset(const RunShape& r, const std::vector<std::int64_t>& strides, std::int64_t run) {
  std::int64_t at = 0;
  for (std::size_t k = r.steps.size(); k-- > 0; run /= r.steps[k]) at += run % r.steps[k] * strides[k];
  return at;
}

}  // namespace

ReshardPlan plan_reshard(const std::vector<ReshardTensor>& tensors, std::size_t num_target_files) {
  ReshardPlan plan;
  plan.files.resize(num_target_files);
  for (std::size_t i = 0; i < tensors.size(); ++i) plan_tensor(tensors, i, plan);
  const auto key = [&](const ReshardCopy& c) {
    return std::make_tuple(c.tensor, c.target, index_in(c.box, tensors[c.tensor].targets[c.target].box));
  };
  const auto before = [&](const ReshardCopy& a, const ReshardCopy& b) { return key(a) < key(b); };
  for (auto& copies : plan.files)
    if (!std::is_sorted(copies.begin(), copies.end(), before)) std::sort(copies.begin(), copies.end(), before);
  return plan;
}

void for_each_common_run(const Box& box, const Box& source, const Box& target, std::int64_t begin, std::int64_t end,
                         const std::function<void(std::int64_t, std::int64_t, std::int64_t)>& run) {
  const RunShape r = run_shape(box, source, target);
  const std::int64_t source_first = index_in(box, source), target_first = index_in(box, target);
  // The first run that ends behind `begin`: places in the target rise with the number of the run.
  std::int64_t low = 0, high = r.num_runs;
  while (low < high) {
    const std::int64_t middle = low + (high - low) / 2;
    if (target_first + run_offset(r, r.in_target, middle) + r.length > begin)
      high = middle;
    else
      low = middle + 1;
  }
  for (std::int64_t i = low; i < r.num_runs; ++i) {
    const std::int64_t to = target_first + run_offset(r, r.in_target, i), skipped = std::max<std::int64_t>(begin - to, 0);
    if (to >= end) return;
    const std::int64_t from = source_first + run_offset(r, r.in_source, i);
    run(from + skipped, to + skipped, std::min(r.length, end - to) - skipped);
  }
}

}  // namespace moe
