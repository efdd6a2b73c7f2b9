#include "lib/io/box_pairs.h"

#include <algorithm>
#include <numeric>

namespace moe {
namespace {

using Indices = std::vector<std::size_t>;
using Meet = std::function<bool(std::size_t, std::size_t)>;

Indices all_of(std::size_t n) {
  Indices list(n);
  std::iota(list.begin(), list.end(), std::size_t{0});
  return list;
}

// The ranges of all boxes, or nothing if one of them is not a run.
std::optional<std::vector<IndexRange>> ranges_of(const std::vector<std::int64_t>& shape, const std::vector<Box>& boxes) {
  std::vector<IndexRange> ranges;
  ranges.reserve(boxes.size());
  for (const Box& b : boxes) {
    const auto range = contiguous_range(shape, b);
    if (!range) return std::nullopt;
    ranges.push_back(*range);
  }
  return ranges;
}

Indices by_begin(const std::vector<IndexRange>& ranges) {
  Indices order = all_of(ranges.size());
  const auto before = [&](std::size_t i, std::size_t j) { return ranges[i].begin < ranges[j].begin; };
  if (!std::is_sorted(order.begin(), order.end(), before)) std::sort(order.begin(), order.end(), before);
  return order;
}

// A sweep along the index: the ranges of each list that are open meet what opens in the other.
void sweep(const std::vector<IndexRange>& a, const std::vector<IndexRange>& b, const Meet& meet) {
  const Indices order_a = by_begin(a), order_b = by_begin(b);
  Indices open_a, open_b;
  const auto close = [](Indices& open, const std::vector<IndexRange>& ranges, std::int64_t at) {
    std::erase_if(open, [&](std::size_t i) { return ranges[i].end <= at; });
  };
  for (std::size_t i = 0, j = 0; i < a.size() || j < b.size();) {
    const bool from_a = j == b.size() || (i < a.size() && a[order_a[i]].begin <= b[order_b[j]].begin);
    const std::size_t next = from_a ? order_a[i++] : order_b[j++];
    const std::int64_t at = from_a ? a[next].begin : b[next].begin;
    close(open_a, a, at);
    close(open_b, b, at);
    for (const std::size_t other : from_a ? open_b : open_a)
      if (!(from_a ? meet(next, other) : meet(other, next))) return;
    (from_a ? open_a : open_b).push_back(next);
  }
}

// General boxes: space is halved by planes until few boxes are left on either side. A pair that meets in several parts of
// space is told in the one that holds the first corner of what they share.
class Halving {
 public:
  Halving(const std::vector<Box>& a, const std::vector<Box>& b, const Meet& meet) : a_(a), b_(b), meet_(meet) {}

  // False: meet() ended the search.
  bool visit(const Box& space, const Indices& a, const Indices& b) {
    if (a.empty() || b.empty()) return true;
    const Plane plane = a.size() * b.size() > kFewPairs ? best_plane(space, a, b) : Plane{};
    if (!plane.useful) return visit_pairs(space, a, b);
    for (const bool upper : {false, true}) {
      Box half = space;
      const std::int64_t cut = plane.at - space.offset[plane.dimension];
      if (upper) half.offset[plane.dimension] += cut;
      half.extent[plane.dimension] = upper ? space.extent[plane.dimension] - cut : cut;
      if (!visit(half, inside(a_, a, half), inside(b_, b, half))) return false;
    }
    return true;
  }

 private:
  static constexpr std::size_t kFewPairs = 256;
  struct Plane {
    std::size_t dimension = 0;
    std::int64_t at = 0;
    bool useful = false;
  };

  static Indices inside(const std::vector<Box>& boxes, const Indices& list, const Box& space) {
    Indices found;
    for (const std::size_t i : list)
      if (boxes_meet(boxes[i], space)) found.push_back(i);
    return found;
  }

  // Of the planes through the middle begin of the boxes, one along each dimension: the one that leaves the fewest on its
  // fuller side; useful if that are at most nine tenths.
  Plane best_plane(const Box& space, const Indices& a, const Indices& b) const {
    Plane best;
    std::size_t least = (a.size() + b.size()) * 9 / 10;
    for (std::size_t d = 0; d < space.extent.size(); ++d) {
      std::vector<std::int64_t> begins;
      const auto add = [&](const Box& box) {
        if (box.offset[d] > space.offset[d]) begins.push_back(box.offset[d]);
      };
      for (const std::size_t i : a) add(a_[i]);
      for (const std::size_t j : b) add(b_[j]);
      if (begins.empty()) continue;
      const auto middle = begins.begin() + static_cast<std::ptrdiff_t>(begins.size() / 2);
      std::nth_element(begins.begin(), middle, begins.end());
      const std::size_t most = fuller_side(d, *middle, a, b);
      if (most <= least) best = {d, *middle, true}, least = most;
    }
    return best;
  }

  std::size_t fuller_side(std::size_t d, std::int64_t at, const Indices& a, const Indices& b) const {
    std::size_t lower = 0, upper = 0;
    const auto count = [&](const Box& box) {
      lower += box.offset[d] < at;
      upper += box.offset[d] + box.extent[d] > at;
    };
    for (const std::size_t i : a) count(a_[i]);
    for (const std::size_t j : b) count(b_[j]);
    return std::max(lower, upper);
  }

  bool visit_pairs(const Box& space, const Indices& a, const Indices& b) const {
    for (const std::size_t i : a)
      for (const std::size_t j : b)
        if (boxes_meet(a_[i], b_[j]) && owns_corner(space, a_[i], b_[j]) && !meet_(i, j)) return false;
    return true;
  }

  static bool owns_corner(const Box& space, const Box& x, const Box& y) {
    for (std::size_t d = 0; d < space.extent.size(); ++d) {
      const std::int64_t corner = std::max(x.offset[d], y.offset[d]) - space.offset[d];
      if (corner < 0 || corner >= space.extent[d]) return false;
    }
    return true;
  }

  const std::vector<Box>&a_, &b_;
  const Meet& meet_;
};

}  // namespace

std::optional<IndexRange> contiguous_range(const std::vector<std::int64_t>& shape, const Box& box) {
  std::int64_t begin = 0, count = 1;
  bool cut = false;  // in an earlier dimension the box has more than one index
  for (std::size_t d = 0; d < shape.size(); ++d) {
    if (cut && box.extent[d] != shape[d]) return std::nullopt;
    cut = cut || box.extent[d] > 1;
    begin = begin * shape[d] + box.offset[d];
    count *= box.extent[d];
  }
  return IndexRange{begin, begin + count};
}

void for_each_meeting(const std::vector<std::int64_t>& shape, const std::vector<Box>& a, const std::vector<Box>& b,
                      const Meet& meet) {
  const auto ranges_a = ranges_of(shape, a), ranges_b = ranges_a ? ranges_of(shape, b) : std::nullopt;
  if (ranges_a && ranges_b) return sweep(*ranges_a, *ranges_b, meet);
  Halving(a, b, meet).visit({std::vector<std::int64_t>(shape.size(), 0), shape}, all_of(a.size()), all_of(b.size()));
}

bool any_overlap(const std::vector<std::int64_t>& shape, const std::vector<Box>& boxes) {
  if (const auto ranges = ranges_of(shape, boxes)) {
    const Indices order = by_begin(*ranges);
    for (std::size_t i = 1; i < order.size(); ++i)
      if ((*ranges)[order[i]].begin < (*ranges)[order[i - 1]].end) return true;
    return false;
  }
  bool found = false;
  for_each_meeting(shape, boxes, boxes, [&](std::size_t i, std::size_t j) {
    found = i != j;
    return !found;
  });
  return found;
}

}  // namespace moe
