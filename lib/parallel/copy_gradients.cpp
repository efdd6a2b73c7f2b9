#include "lib/parallel/copy_gradients.h"

#include <algorithm>

#include "lib/parallel/run_overlaps.h"

namespace moe {
namespace {

std::vector<ShardRun> runs_of_kind(const ParamSpec& spec, const ParamLayout& layout, bool copies) {
  std::vector<ShardRun> runs = shard_runs(spec, layout);
  std::erase_if(runs, [copies](const ShardRun& run) { return run.is_copy != copies; });
  return runs;
}

bool layer_has_copies(const std::vector<ParamLayout>& rank2layout, int layer) {
  return std::any_of(rank2layout.begin(), rank2layout.end(), [layer](const ParamLayout& l) {
    return std::any_of(l.experts(layer).begin(), l.experts(layer).end(), [](const LocalExpert& e) { return e.is_copy; });
  });
}

}  // namespace

CopyGradients::CopyGradients(ParamStore& store, const UnitList& list, Comm* dense,
                             const std::vector<ParamLayout>& rank2layout, Env env)
    : store_(store), dense_(dense), env_(env) {
  if (rank2layout.empty() || !dense) return;
  units_.resize(list.units.size());
  std::size_t most = 0;
  for (std::size_t u = 0; u < units_.size(); ++u) {
    const Unit& unit = list.units[u];
    if (unit.kind != UnitKind::kExperts) continue;
    const int layer = store.all()[unit.tensors[0].param].spec.layer();
    units_[u].any = layer_has_copies(rank2layout, layer);
    if (units_[u].any) add_unit(unit, units_[u], store.layout().dense.index, rank2layout);
    std::size_t floats = 0;
    for (const Part& part : units_[u].spoken) floats += static_cast<std::size_t>(part.count);
    most = std::max(most, floats);
  }
  if (most == 0) return;
  arena_ = std::make_unique<Arena>(most * sizeof(float) + 64, env.stream.device());
  received_ = arena_->vector<float>(static_cast<std::int64_t>(most));
}

// Both sides list what they share in the order of peers, tensors and elements, so messages need no headers.
void CopyGradients::add_unit(const Unit& unit, UnitCopies& copies, int rank,
                             const std::vector<ParamLayout>& rank2layout) const {
  const ParamLayout& mine = rank2layout[static_cast<std::size_t>(rank)];
  for (int peer = 0; peer < static_cast<int>(rank2layout.size()); ++peer)
    for (const UnitTensor& t : unit.tensors) {
      if (peer == rank) continue;
      const ParamSpec& spec = store_.all()[t.param].spec;
      const ParamLayout& theirs = rank2layout[static_cast<std::size_t>(peer)];
      for (const RunOverlap& o : overlaps(runs_of_kind(spec, mine, true), runs_of_kind(spec, theirs, false)))
        copies.copies.push_back({peer, t.param, o.a_at, o.count});
      for (const RunOverlap& o : overlaps(runs_of_kind(spec, mine, false), runs_of_kind(spec, theirs, true)))
        copies.spoken.push_back({peer, t.param, o.a_at, o.count});
    }
}

void CopyGradients::sum(int index) {
  const UnitCopies& unit = units_[static_cast<std::size_t>(index)];
  const auto bytes = [](const Part& part) { return static_cast<std::size_t>(part.count) * sizeof(float); };
  std::vector<SendPiece> sends;
  std::vector<RecvPiece> receives;
  float* next = received_.data();
  for (const Part& part : unit.copies) sends.push_back({part.peer, gradient(part), bytes(part)});
  for (const Part& part : unit.spoken) receives.push_back({part.peer, next, bytes(part)}), next += part.count;
  dense_->exchange("sum copies", sends, receives);
  const float* from = received_.data();
  for (const Part& part : unit.spoken) {
    float* const to = gradient(part);
    env_.kernels.elements.copy(env_.stream, mat(from, 1, part.count), mat(to, 1, part.count), Store::kAdd);
    from += part.count;
  }
  sends.clear(), receives.clear();
  for (const Part& part : unit.spoken) sends.push_back({part.peer, gradient(part), bytes(part)});
  for (const Part& part : unit.copies) receives.push_back({part.peer, gradient(part), bytes(part)});
  dense_->exchange("give copies", sends, receives);
}

}  // namespace moe
