#include "lib/run/tensor_difference.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>

#include "lib/base/error.h"
#include "lib/io/digest.h"
#include "lib/io/verify.h"

namespace moe {
namespace {

float value_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }
float value_of(std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); }

// Bits of elements that are neighbours in the tensor from `first` on.
template <class Bits>
void widen(const std::byte* bits, std::int64_t first, std::int64_t count, ElementSum& sum, float* out) {
  const std::span all(reinterpret_cast<const Bits*>(bits), static_cast<std::size_t>(count));
  sum.add(static_cast<std::uint64_t>(first), all);
  std::transform(all.begin(), all.end(), out, [](Bits b) { return value_of(b); });
}

// Calls take(part) for parts of the box of at most `limit` elements, cut along the first dimension that allows it.
void in_parts(const Box& box, std::int64_t limit, const std::function<void(const Box&)>& take) {
  const std::int64_t all = elements_of(box.extent);
  std::size_t d = 0;
  while (d < box.extent.size() && box.extent[d] == 1) ++d;
  if (all <= limit || d == box.extent.size()) return take(box);
  const std::int64_t plane = all / box.extent[d], count = std::max<std::int64_t>(limit / plane, 1);
  for (std::int64_t at = 0; at < box.extent[d]; at += count) {
    Box part = box;
    part.offset[d] += at;
    part.extent[d] = std::min(count, box.extent[d] - at);
    in_parts(part, limit, take);
  }
}

Difference compare(const std::vector<float>& a, const std::vector<float>& b, std::size_t n) {
  Difference d{.num_elements = static_cast<std::int64_t>(n)};
  for (std::size_t i = 0; i < n; ++i) {
    const double x = a[i], y = b[i], delta = x - y;
    if (!(std::abs(delta) <= d.largest)) d.largest = std::abs(delta);  // not-a-number too
    d.sum_dd += delta * delta;
    d.sum_aa += x * x;
    d.sum_bb += y * y;
    d.num_different += std::bit_cast<std::uint32_t>(a[i]) != std::bit_cast<std::uint32_t>(b[i]);
  }
  return d;
}

void check_sum(const ManifestTensor& t, const ElementSum& sum) {
  if (const std::string found = sum.value().hex(); found != t.digest)
    throw Error(Exit::kBadInput, "tensor " + t.label() + ": expected digest " + t.digest + ", found " + found,
                "moe-reshard verify says where the damage is");
}

// Slices by their first index of dimension 0, so that those that meet a range of it are found without looking at all.
std::vector<const ManifestSlice*> by_offset(const ManifestTensor& t) {
  std::vector<const ManifestSlice*> list;
  for (const ManifestSlice& s : t.slices) list.push_back(&s);
  std::sort(list.begin(), list.end(), [](const auto* x, const auto* y) { return x->box.offset < y->box.offset; });
  return list;
}

// The longest reach of a slice along dimension 0.
std::int64_t longest(const ManifestTensor& t) {
  std::int64_t most = 0;
  for (const ManifestSlice& s : t.slices) most = std::max(most, t.shape.empty() ? 0 : s.box.extent[0]);
  return most;
}

}  // namespace

void Difference::add(const Difference& o) {
  largest = std::max(largest, o.largest);
  sum_dd += o.sum_dd, sum_aa += o.sum_aa, sum_bb += o.sum_bb;
  num_different += o.num_different, num_elements += o.num_elements;
}
double Difference::norm() const { return std::sqrt(sum_dd); }
double Difference::relative() const {
  const double most = std::max(sum_aa, sum_bb);
  return most > 0 ? std::sqrt(sum_dd / most) : 0;
}

BoxReader::Shard& BoxReader::shard(std::size_t file) {
  const auto known = shards_.find(file);
  if (known != shards_.end()) return known->second;
  if (shards_.size() >= 256) shards_.clear();  // files that may be open at a time are few
  const std::string path = directory_ + "/" + manifest_.files[file].name;
  return shards_.emplace(file, Shard{open_shard(manifest_, file, directory_), File::open(path, Links::kRefuse)})
      .first->second;
}

void BoxReader::read(const ManifestTensor& t, const ManifestSlice& s, const Box& box, ElementSum& sum, float* out) {
  Shard& from = shard(s.file);
  const H5Dataset d = slice_dataset(from.h5, t, s, directory_ + "/" + manifest_.files[s.file].name);
  const auto size = static_cast<std::int64_t>(size_of(t.dtype));
  Box local = box;
  for (std::size_t i = 0; i < local.offset.size(); ++i) local.offset[i] -= s.box.offset[i];
  bits_.resize(static_cast<std::size_t>(elements_of(box.extent) * size));
  std::byte* at = bits_.data();
  for_each_run(s.box.extent, local, [&](std::int64_t first, std::int64_t count) {
    from.file.read_at(d.file_offset + first * size, {at, static_cast<std::size_t>(count * size)});
    at += count * size;
  });
  at = bits_.data();
  for_each_run(t.shape, box, [&](std::int64_t first, std::int64_t count) {
    t.dtype == DType::kF32 ? widen<std::uint32_t>(at, first, count, sum, out)
                           : widen<std::uint16_t>(at, first, count, sum, out);
    at += count * size;
    out += count;
  });
}

TensorDifference difference_of(BoxReader& reader_a, const ManifestTensor& a, BoxReader& reader_b, const ManifestTensor& b,
                               bool by_expert, std::int64_t memory_bytes) {
  TensorDifference result;
  if (by_expert) result.experts.resize(static_cast<std::size_t>(a.shape[0]));
  ElementSum sum_a(a.identity()), sum_b(b.identity());
  // Bits of each and fp32 of both: at most 16 bytes an element.
  const std::int64_t limit = std::max<std::int64_t>(memory_bytes / 16, 1 << 10);
  std::vector<float> x, y;
  const std::vector<const ManifestSlice*> slices_a = by_offset(a), slices_b = by_offset(b);
  const std::int64_t reach = longest(b);
  const auto take = [&](const ManifestSlice& s, const ManifestSlice& t, const Box& part) {
    const auto n = static_cast<std::size_t>(elements_of(part.extent));
    x.resize(std::max(x.size(), n));
    y.resize(std::max(y.size(), n));
    reader_a.read(a, s, part, sum_a, x.data());
    reader_b.read(b, t, part, sum_b, y.data());
    const Difference d = compare(x, y, n);
    result.all.add(d);
    if (by_expert) result.experts[static_cast<std::size_t>(part.offset[0])].add(d);
  };
  for (const ManifestSlice* s : slices_a) {
    const bool scalar = a.shape.empty();
    const std::int64_t begin = scalar ? 0 : s->box.offset[0], end = scalar ? 1 : begin + s->box.extent[0];
    auto t = scalar ? slices_b.begin() : std::partition_point(slices_b.begin(), slices_b.end(), [&](const auto* other) {
      return other->box.offset[0] + reach <= begin;
    });
    for (; t != slices_b.end() && (scalar || (*t)->box.offset[0] < end); ++t) {
      if (!boxes_meet(s->box, (*t)->box)) continue;
      const Box common = intersection(s->box, (*t)->box);
      // Of experts, parts of one each.
      const std::int64_t plane = by_expert ? elements_of(common.extent) / common.extent[0] : limit;
      in_parts(common, std::min(limit, plane), [&](const Box& part) { take(*s, **t, part); });
    }
  }
  check_sum(a, sum_a);
  check_sum(b, sum_b);
  return result;
}

}  // namespace moe
