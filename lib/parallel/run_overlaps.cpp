#include "lib/parallel/run_overlaps.h"

#include <algorithm>

namespace moe {

std::vector<RunOverlap> overlaps(std::vector<ShardRun> a, std::vector<ShardRun> b) {
  const auto by_place = [](const ShardRun& x, const ShardRun& y) { return x.global < y.global; };
  std::sort(a.begin(), a.end(), by_place);
  std::sort(b.begin(), b.end(), by_place);
  std::vector<RunOverlap> list;
  for (auto x = a.begin(), y = b.begin(); x != a.end() && y != b.end();) {
    const std::int64_t x_end = x->global + x->count, y_end = y->global + y->count;
    const std::int64_t begin = std::max(x->global, y->global), end = std::min(x_end, y_end);
    if (begin < end) list.push_back({x->at + begin - x->global, y->at + begin - y->global, end - begin});
    if (x_end < y_end)
      ++x;
    else
      ++y;
  }
  return list;
}

}  // namespace moe
