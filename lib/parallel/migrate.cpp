#include "lib/parallel/migrate.h"

#include <algorithm>
#include <cstring>

#include "lib/parallel/run_overlaps.h"

namespace moe {
namespace {

// What is carried of a shard: the same list on all ranks, whose elements are `bytes` wide.
struct Kind {
  std::byte* data;
  std::size_t bytes;
};
std::vector<Kind> kinds_of(const ParamStore& store, const Param& p) {
  const auto kind = [](void* data, DType dtype) { return Kind{static_cast<std::byte*>(data), size_of(dtype)}; };
  const DType moments = store.state().moments;
  std::vector<Kind> kinds = {kind(p.master, DType::kF32), kind(p.m.data, moments)};
  if (!p.is_muon) kinds.push_back(kind(p.v.data, moments));
  if (store.state().ema) kinds.push_back(kind(p.ema, DType::kF32));
  return kinds;
}

constexpr std::size_t kMostKinds = 4;

std::vector<ShardRun> spoken_runs(const ParamSpec& spec, const ParamLayout& layout) {
  std::vector<ShardRun> runs = shard_runs(spec, layout);
  std::erase_if(runs, [](const ShardRun& run) { return run.is_copy; });
  return runs;
}

using Kinds = std::vector<Kind>;

void copy_dense(const Param& from, const Kinds& source, const Kinds& target) {
  for (std::size_t k = 0; k < source.size(); ++k)
    std::copy_n(source[k].data, static_cast<std::size_t>(from.shard_size()) * source[k].bytes, target[k].data);
}

void move_experts(const Param& from, const Kinds& source, const RankLayouts& from_layouts, const Kinds& target,
                  const RankLayouts& to_layouts, int rank, Comm& dense) {
  const auto mine = static_cast<std::size_t>(rank);
  const std::vector<ShardRun> had = spoken_runs(from.spec, from_layouts[mine]);
  const std::vector<ShardRun> gets = shard_runs(from.spec, to_layouts[mine]);
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  const auto at = [](const Kind& kind, std::int64_t element) {
    return kind.data + element * static_cast<std::int64_t>(kind.bytes);
  };
  const auto bytes = [](const Kind& kind, const RunOverlap& o) { return static_cast<std::size_t>(o.count) * kind.bytes; };
  for (std::size_t peer = 0; peer < from_layouts.size(); ++peer) {
    const int p = static_cast<int>(peer);
    for (const RunOverlap& o : overlaps(had, shard_runs(from.spec, to_layouts[peer])))
      for (const Kind& kind : source) sends.push_back({p, at(kind, o.a_at), bytes(kind, o)});
    for (const RunOverlap& o : overlaps(gets, spoken_runs(from.spec, from_layouts[peer])))
      for (const Kind& kind : target) receives.push_back({p, at(kind, o.a_at), bytes(kind, o)});
  }
  dense.exchange("migrate", sends, receives);
}

// splitmix64's finalizer (Steele, Lea, Flood 2014).
std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

void migrate_state(const ParamStore& from, const RankLayouts& from_layouts, ParamStore& to, const RankLayouts& to_layouts,
                   Comm* dense) {
  const int rank = from.layout().dense.index;
  for (std::size_t i = 0; i < from.all().size(); ++i) {
    const Param& p = from.all()[i];
    const Kinds source = kinds_of(from, p), target = kinds_of(to, to.all()[i]);
    if (p.spec.is_expert && dense)
      move_experts(p, source, from_layouts, target, to_layouts, rank, *dense);
    else
      copy_dense(p, source, target);
  }
  Stream stream(1);
  to.round_masters({stream, cpu_kernels()});
}

std::uint64_t state_fingerprint(const ParamStore& store) {
  std::uint64_t sum = 0;
  for (std::size_t t = 0; t < store.all().size(); ++t) {
    const Param& p = store.all()[t];
    const Kinds kinds = kinds_of(store, p);
    for (const ShardRun& run : store.runs(p)) {
      if (run.is_copy) continue;
      for (std::size_t k = 0; k < kinds.size(); ++k) {
        const std::uint64_t tensor = mix((t + 1) * kMostKinds + k);
        const std::size_t bytes = kinds[k].bytes;
        const std::byte* const values = kinds[k].data + run.at * static_cast<std::int64_t>(bytes);
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (std::int64_t i = 0; i < run.count; ++i) {
          std::uint32_t bits = 0;
          std::memcpy(&bits, values + i * static_cast<std::int64_t>(bytes), bytes);
          sum +=
              mix(tensor + static_cast<std::uint64_t>(run.global + i) * 0x9e3779b97f4a7c15u) * (2 * std::uint64_t{bits} + 1);
        }
      }
    }
  }
  return sum;
}

}  // namespace moe
