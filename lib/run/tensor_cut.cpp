#include "lib/run/tensor_cut.h"

#include <algorithm>
#include <numeric>

namespace moe {
namespace {

using Shape = std::vector<std::int64_t>;

// [first, first + count) of dimension 0, all of the others.
Box planes(const Shape& shape, std::int64_t first, std::int64_t count) {
  Box box{Shape(shape.size(), 0), shape};
  if (shape.empty()) return box;
  box.offset[0] = first;
  box.extent[0] = count;
  return box;
}

std::int64_t elements_per_row(const Shape& shape, bool is_expert) {
  const std::ptrdiff_t outer = is_expert ? 2 : shape.empty() ? 0 : 1;
  return std::accumulate(shape.begin() + outer, shape.end(), std::int64_t{1}, std::multiplies<>());
}

void cut_expert_rows(const Shape& shape, std::int64_t begin, std::int64_t end, std::vector<ShardBox>& list) {
  const std::int64_t rows_per_expert = shape[1], cols = elements_per_row(shape, true);
  for (std::int64_t row = begin, next = 0; row < end; row = next) {
    const std::int64_t expert = row / rows_per_expert, within = row % rows_per_expert, left = end - row;
    const bool whole = within == 0 && left >= rows_per_expert;
    const std::int64_t count = whole ? left / rows_per_expert : 1;
    next = whole ? row + count * rows_per_expert : std::min(end, row - within + rows_per_expert);
    Box box = planes(shape, expert, count);
    if (!whole) box.offset[1] = within, box.extent[1] = next - row;
    list.push_back({std::move(box), (row - begin) * cols});
  }
}

}  // namespace

bool is_expert_name(const std::string& name) { return name.find(".experts.") != std::string::npos; }

std::int64_t num_rows(const Shape& shape, bool is_expert) {
  return is_expert ? shape[0] * shape[1] : shape.empty() ? 1 : shape[0];
}

std::vector<ShardBox> row_boxes(const Shape& shape, bool is_expert, std::int64_t begin, std::int64_t end) {
  std::vector<ShardBox> list;
  if (is_expert)
    cut_expert_rows(shape, begin, end, list);
  else if (begin < end)
    list.push_back({planes(shape, begin, end - begin), 0});
  return list;
}

std::vector<ShardBox> shard_boxes(const ParamStore& store, const Param& p, bool with_copies) {
  std::vector<ShardBox> list;
  for (const ShardRun& run : store.runs(p)) {
    if (run.is_copy && !with_copies) continue;
    const std::int64_t row = run.global / p.shard_cols, rows = run.count / p.shard_cols;
    for (ShardBox& b : row_boxes(p.spec.shape, p.spec.is_expert, row, row + rows)) {
      b.at += run.at;
      list.push_back(std::move(b));
    }
  }
  if (list.empty()) list.push_back({planes(p.spec.shape, 0, 0), 0});
  return list;
}

}  // namespace moe
