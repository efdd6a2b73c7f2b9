#include "lib/parallel/unit_weights.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "lib/parallel/row_exchange.h"

namespace moe {

UnitWeights::UnitWeights(ParamStore& store, const UnitList& list, const UnitBuffers& buffers, const UnitComms& comms,
                         CommLane& lane, Stream& lane_stream)
    : store_(store), list_(list), comms_(comms), lane_(lane), lane_stream_(lane_stream), in_place_(store.layout().zero < 3) {
  for (std::size_t k = 0; k < kNumUnitKinds; ++k)
    for (std::byte* data : buffers.weights[k]) holders_.push_back({.kind = static_cast<UnitKind>(k), .data = data});
  if (!in_place_) return;
  for (std::size_t i = 0; i < list.units.size(); ++i)
    holders_.push_back({.kind = list.units[i].kind, .unit = static_cast<int>(i)});
}

bool UnitWeights::is_cut(int unit) const { return unit >= 0 && list_.units.at(static_cast<std::size_t>(unit)).is_cut(); }

UnitWeights::Holder* UnitWeights::find(int unit) {
  const auto it = std::find_if(holders_.begin(), holders_.end(), [&](const Holder& h) { return h.unit == unit; });
  return it == holders_.end() ? nullptr : &*it;
}

// A buffer that nobody uses, of those the one released longest ago; prefetched ones only if asked for and nothing else is
// left. nullptr: none.
UnitWeights::Holder* UnitWeights::take(int unit, bool from_prefetched) {
  const UnitKind kind = list_.units[static_cast<std::size_t>(unit)].kind;
  Holder* best = nullptr;
  for (Holder& h : holders_) {
    if (h.kind != kind || h.num_users > 0 || (h.wanted && !from_prefetched)) continue;
    if (!best || std::pair(h.wanted, h.released) < std::pair(best->wanted, best->released)) best = &h;
  }
  if (best) *best = {.kind = kind, .data = best->data, .unit = unit};
  return best;
}

void UnitWeights::gather_if_old(Holder& holder) {
  if (holder.fresh) return;
  std::vector<GatherRows> tensors;
  for (const UnitTensor& t : list_.units[static_cast<std::size_t>(holder.unit)].tensors) {
    const Param& p = store_.all()[t.param];
    std::byte* whole = in_place_ ? static_cast<std::byte*>(p.weight.data) : holder.data + t.weight_at;
    const std::size_t row_bytes = static_cast<std::size_t>(p.shard_cols) * size_of(store_.dtype());
    tensors.push_back({whole, p.weight_shard, p.num_local() / p.shard_cols, row_bytes});
  }
  Comm* comm = holder.kind == UnitKind::kExperts ? comms_.expert : comms_.dense;
  holder.ticket = last_ticket_ =
      lane_.submit("gather", [this, comm, tensors] { gather_rows(*comm, "gather", tensors, lane_stream_); },
                   {.name = "gather", .of = list_.units[static_cast<std::size_t>(holder.unit)].name});
  holder.fresh = true;
}

// Param::weight of the unit points into its buffer, or nowhere.
void UnitWeights::show(const Holder& holder, bool shown) {
  if (in_place_) return;
  for (const UnitTensor& t : list_.units[static_cast<std::size_t>(holder.unit)].tensors)
    store_.all()[t.param].weight.data = shown ? holder.data + t.weight_at : nullptr;
}

void UnitWeights::prefetch(int unit) {
  if (!is_cut(unit)) return;
  Holder* holder = find(unit);
  if (!holder) holder = take(unit, false);
  if (!holder) return;
  if (holder->num_users == 0) holder->wanted = true;
  gather_if_old(*holder);
}

void UnitWeights::use(int unit) {
  if (!is_cut(unit)) return;
  Holder* holder = find(unit);
  if (!holder) holder = take(unit, true);
  if (!holder)
    throw std::logic_error("unit " + list_.units[static_cast<std::size_t>(unit)].name +
                           ": expected a buffer that is not in use, found none; a unit was not released");
  gather_if_old(*holder);
  ++holder->num_users;
  holder->wanted = false;
  lane_.wait(holder->ticket);
  show(*holder, true);
}

void UnitWeights::release(int unit) {
  Holder* holder = is_cut(unit) ? find(unit) : nullptr;
  if (!holder) return;  // a prefetch that found no buffer, or lost it
  holder->wanted = false;
  if (holder->num_users > 0) --holder->num_users;
  if (holder->num_users > 0) return;
  holder->released = ++num_releases_;
  show(*holder, false);
}

void UnitWeights::changed() {
  for (Holder& h : holders_) {
    if (h.num_users > 0)
      throw std::logic_error("unit " + list_.units[static_cast<std::size_t>(h.unit)].name +
                             ": expected it released before the weights change");
    h.fresh = h.wanted = false;
  }
}

}  // namespace moe
