#include "lib/parallel/unit_list.h"

#include <algorithm>

#include "lib/parallel/row_exchange.h"

namespace moe {
namespace {

constexpr std::string_view kLayers = "layers.", kEmbedding = "embedding.", kHeadWeight = "head.weight";

std::size_t aligned(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

std::string unit_name(const ParamSpec& spec) {
  if (spec.name.starts_with(kEmbedding)) return "embedding";
  const int layer = spec.layer();
  if (layer < 0) return "head";
  return std::string(kLayers) + std::to_string(layer) + (spec.is_expert ? ".experts" : "");
}

// What the largest unit of a kind takes.
std::size_t largest(const UnitList& list, UnitKind kind, std::size_t Unit::*bytes) {
  std::size_t most = 0;
  for (const Unit& unit : list.units)
    if (unit.kind == kind && unit.is_cut()) most = std::max(most, unit.*bytes);
  return most;
}

std::vector<std::byte*> take_kind(Arena& arena, const UnitList& list, UnitKind kind, std::size_t Unit::*bytes) {
  const auto num_units = std::count_if(list.units.begin(), list.units.end(),
                                       [&](const Unit& unit) { return unit.kind == kind && unit.is_cut(); });
  const std::ptrdiff_t most = kind == UnitKind::kBlock || kind == UnitKind::kExperts ? 2 : 1;
  std::vector<std::byte*> buffers;
  for (std::ptrdiff_t i = 0; i < std::min(num_units, most); ++i)
    buffers.push_back(static_cast<std::byte*>(arena.take(largest(list, kind, bytes))));
  return buffers;
}

// Floats that the longest shard of a unit has when its tensors, of rows_of(param) rows and cols_of(param) columns, are cut.
template <class Rows, class Cols>
std::int64_t longest_shard(const Unit& unit, const ParamStore& store, int count, Rows rows_of, Cols cols_of) {
  std::int64_t longest = 0;
  for (int r = 0; r < count; ++r) {
    std::int64_t n = 0;
    for (const UnitTensor& t : unit.tensors) {
      const Param& p = store.all()[t.param];
      const Cut cut{r, count};
      n += (cut.end(rows_of(p)) - cut.begin(rows_of(p))) * cols_of(p);
    }
    longest = std::max(longest, n);
  }
  return longest;
}

// The largest that the reduction of a unit asks for: over its group, and its shards over the replicas.
std::int64_t most_staging(const UnitList& list, const ParamStore& store, int num_replicas) {
  std::int64_t most = 0;
  for (const Unit& unit : list.units) {
    const auto shard = longest_shard(
        unit, store, unit.cut.count, [](const Param& p) { return p.num_local() / p.shard_cols; },
        [](const Param& p) { return p.shard_cols; });
    const auto part = longest_shard(
        unit, store, num_replicas, [](const Param& p) { return p.shard_size(); }, [](const Param&) { return 1; });
    most = std::max({most, staging_floats(unit.cut.count, shard), staging_floats(num_replicas, part)});
  }
  return most;
}

}  // namespace

UnitList::UnitList(const ParamStore& store) {
  for (std::size_t i = 0; i < store.all().size(); ++i) {
    const Param& p = store.all()[i];
    Unit& unit = units[static_cast<std::size_t>(unit_of(p.spec, store.layout()))];
    unit.tensors.push_back({i, unit.weight_bytes, unit.grad_bytes});
    unit.weight_bytes += aligned(static_cast<std::size_t>(p.num_local()) * size_of(store.dtype()));
    unit.grad_bytes += aligned(static_cast<std::size_t>(p.num_local()) * sizeof(float));
  }
  const auto& all = store.all();
  const bool tied =
      std::none_of(all.begin(), all.end(), [](const Param& p) { return p.spec.name.starts_with(kHeadWeight); });
  if (tied && head >= 0) units[static_cast<std::size_t>(head)].kind = UnitKind::kTiedNorm;
}

// Where the number of the parameter's unit is kept.
int& UnitList::index_of(const ParamSpec& spec) {
  const int layer = spec.layer();
  if (layer < 0) return spec.name.starts_with(kEmbedding) ? embedding : head;
  if (static_cast<std::size_t>(layer) >= dense.size()) {
    dense.resize(static_cast<std::size_t>(layer) + 1, -1);
    experts.resize(static_cast<std::size_t>(layer) + 1, -1);
  }
  return (spec.is_expert ? experts : dense)[static_cast<std::size_t>(layer)];
}

int UnitList::unit_of(const ParamSpec& spec, const ParamLayout& layout) {
  int& index = index_of(spec);
  if (index >= 0) return index;
  UnitKind kind = spec.layer() < 0 ? UnitKind::kEnds : UnitKind::kBlock;
  if (spec.is_expert) kind = UnitKind::kExperts;
  units.push_back({.name = unit_name(spec), .kind = kind, .cut = spec.is_expert ? layout.expert : layout.dense});
  return index = static_cast<int>(units.size()) - 1;
}

UnitBuffers take_unit_buffers(Arena& arena, const UnitList& list, const ParamStore& store, bool training, int num_replicas) {
  UnitBuffers buffers;
  const int zero = store.layout().zero;
  for (std::size_t k = 0; k < kNumUnitKinds; ++k) {
    const auto kind = static_cast<UnitKind>(k);
    if (zero == 3) buffers.weights[k] = take_kind(arena, list, kind, &Unit::weight_bytes);
    if (zero >= 2 && training) buffers.grads[k] = take_kind(arena, list, kind, &Unit::grad_bytes);
  }
  if (training) buffers.staging = arena.vector<float>(most_staging(list, store, num_replicas));
  return buffers;
}

}  // namespace moe
