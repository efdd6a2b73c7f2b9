#include "lib/parallel/migrate.h"

#include <algorithm>
#include <array>
#include <bit>

#include "lib/parallel/run_overlaps.h"

namespace moe {
namespace {

// What is carried: the shards of these, in fp32.
std::array<float*, 3> kinds_of(const Param& p) { return {p.master, p.m, p.v}; }

std::vector<ShardRun> spoken_runs(const ParamSpec& spec, const ParamLayout& layout) {
  std::vector<ShardRun> runs = shard_runs(spec, layout);
  std::erase_if(runs, [](const ShardRun& run) { return run.is_copy; });
  return runs;
}

void copy_dense(const Param& from, const Param& to) {
  const auto source = kinds_of(from), target = kinds_of(to);
  for (std::size_t k = 0; k < source.size(); ++k) std::copy_n(source[k], from.shard_size(), target[k]);
}

void move_experts(const Param& from, const RankLayouts& from_layouts, const Param& to, const RankLayouts& to_layouts,
                  int rank, Comm& dense) {
  const auto mine = static_cast<std::size_t>(rank);
  const std::vector<ShardRun> had = spoken_runs(from.spec, from_layouts[mine]);
  const std::vector<ShardRun> gets = shard_runs(from.spec, to_layouts[mine]);
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  const auto bytes = [](const RunOverlap& o) { return static_cast<std::size_t>(o.count) * sizeof(float); };
  for (std::size_t peer = 0; peer < from_layouts.size(); ++peer) {
    const int p = static_cast<int>(peer);
    for (const RunOverlap& o : overlaps(had, shard_runs(from.spec, to_layouts[peer])))
      for (const float* kind : kinds_of(from)) sends.push_back({p, kind + o.a_at, bytes(o)});
    for (const RunOverlap& o : overlaps(gets, spoken_runs(from.spec, from_layouts[peer])))
      for (float* kind : kinds_of(to)) receives.push_back({p, kind + o.a_at, bytes(o)});
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
    const Param &source = from.all()[i], &target = to.all()[i];
    if (source.spec.is_expert && dense)
      move_experts(source, from_layouts, target, to_layouts, rank, *dense);
    else
      copy_dense(source, target);
  }
  to.round_masters();
}

std::uint64_t state_fingerprint(const ParamStore& store) {
  std::uint64_t sum = 0;
  for (std::size_t t = 0; t < store.all().size(); ++t) {
    const Param& p = store.all()[t];
    const auto kinds = kinds_of(p);
    for (const ShardRun& run : store.runs(p)) {
      if (run.is_copy) continue;
      for (std::size_t k = 0; k < kinds.size(); ++k) {
        const std::uint64_t tensor = mix((t + 1) * kinds.size() + k);
        const float* const values = kinds[k] + run.at;
#pragma omp parallel for schedule(static) reduction(+ : sum)
        for (std::int64_t i = 0; i < run.count; ++i)
          sum += mix(tensor + static_cast<std::uint64_t>(run.global + i) * 0x9e3779b97f4a7c15u) *
                 (2 * std::uint64_t{std::bit_cast<std::uint32_t>(values[i])} + 1);
      }
    }
  }
  return sum;
}

}  // namespace moe
