#include "lib/parallel/unit_gradients.h"

#include <algorithm>
#include <stdexcept>

namespace moe {

void UnitGradients::zero(float* data, std::int64_t n) const {
  env_.stream.zero(data, static_cast<std::size_t>(n) * sizeof(float));
}

UnitGradients::UnitGradients(ParamStore& store, const UnitList& list, const UnitBuffers& buffers, const UnitComms& comms,
                             CommLane& lane, int num_replicas, Env env)
    : store_(store),
      list_(list),
      staging_(buffers.staging),
      comms_(comms),
      copies_(store, list, comms.dense, comms.dense_layouts, env),
      lane_(lane),
      num_replicas_(num_replicas),
      env_(env) {
  for (std::size_t k = 0; k < kNumUnitKinds; ++k)
    for (std::byte* data : buffers.grads[k]) buffers_.push_back({.kind = static_cast<UnitKind>(k), .data = data});
}

UnitGradients::Buffer* UnitGradients::find(int unit) {
  const auto it = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& b) { return b.unit == unit; });
  return it == buffers_.end() ? nullptr : &*it;
}

// Param::grad of the unit points into its buffer, or nowhere.
void UnitGradients::show(const Unit& unit, std::byte* data) {
  for (const UnitTensor& t : unit.tensors) store_.all()[t.param].grad.data = data ? data + t.grad_at : nullptr;
}

// Waits for the reduction that still reads the buffer.
void UnitGradients::begin(int index) {
  if (index < 0) return;
  const Unit& unit = list_.units.at(static_cast<std::size_t>(index));
  if (!uses_buffers(unit) || find(index)) return;
  Buffer* best = nullptr;
  for (Buffer& b : buffers_)
    if (b.kind == unit.kind && b.unit < 0 && (!best || b.ticket < best->ticket)) best = &b;
  if (!best) throw std::logic_error("unit " + unit.name + ": expected a free buffer for gradients; one was not reduced");
  lane_.wait(best->ticket);
  best->unit = index;
  show(unit, best->data);
}

std::vector<ReduceRows> UnitGradients::contributions(const Unit& unit) const {
  std::vector<ReduceRows> tensors;
  for (const UnitTensor& t : unit.tensors) {
    const Param& p = store_.all()[t.param];
    tensors.push_back({p.grad.f32(), p.grad_shard, p.num_local() / p.shard_cols, p.shard_cols});
  }
  return tensors;
}

// On the lane. What was sent is zeroed: buffers for their next unit, whole gradients so that only the shard counts.
void UnitGradients::reduce_group(const Unit& unit, std::span<const ReduceRows> tensors) const {
  const bool whole = store_.layout().zero == 1;
  Comm& comm = unit.kind == UnitKind::kExperts ? *comms_.expert : *comms_.dense;
  reduce_rows(comm, "reduce", tensors, whole ? Store::kAssign : Store::kAdd, staging_, env_);
  for (const ReduceRows& t : tensors) {
    auto* const data = const_cast<float*>(t.whole);
    const std::int64_t kept_begin = whole ? unit.cut.begin(t.rows) : 0, kept_end = whole ? unit.cut.end(t.rows) : 0;
    zero(data, kept_begin * t.cols);
    zero(data + kept_end * t.cols, (t.rows - kept_end) * t.cols);
  }
}

// On the lane. Each replica sums one part of the shards, the parts are gathered: all get the same bits.
void UnitGradients::reduce_replicas(const Unit& unit) const {
  const Cut part{comms_.replicate->rank(), num_replicas_};
  std::vector<ReduceRows> sums;
  std::vector<GatherRows> parts;
  for (const UnitTensor& t : unit.tensors) {
    const Param& p = store_.all()[t.param];
    float* const own = p.grad_shard + part.begin(p.shard_size());
    sums.push_back({p.grad_shard, own, p.shard_size(), 1});
    parts.push_back({reinterpret_cast<std::byte*>(p.grad_shard), own, p.shard_size(), sizeof(float)});
  }
  reduce_rows(*comms_.replicate, "reduce over replicas", sums, Store::kAssign, staging_, env_);
  gather_rows(*comms_.replicate, "reduce over replicas", parts, env_.stream);
}

void UnitGradients::reduce(int index, bool last) {
  if (index < 0) return;
  const Unit& unit = list_.units.at(static_cast<std::size_t>(index));
  Buffer* buffer = find(index);
  if (uses_buffers(unit) && !buffer)
    throw std::logic_error("unit " + unit.name + ": expected begin_gradients() before reduce_gradients()");
  const bool over_group = unit.is_cut() && (buffer || last), over_replicas = last && num_replicas_ > 1;
  const bool over_copies = last && copies_.has_copies(index);
  if (!over_group && !over_copies && !over_replicas) return;
  last_ticket_ = lane_.submit(
      "reduce",
      [=, this, &unit, tensors = contributions(unit)] {
        if (over_group) reduce_group(unit, tensors);
        if (over_copies) copies_.sum(index);
        if (over_replicas) reduce_replicas(unit);
      },
      {.name = "reduce", .of = unit.name});
  if (!buffer) return;
  show(unit, nullptr);
  buffer->unit = -1;
  buffer->ticket = last_ticket_;
}

void UnitGradients::check_all_reduced() const {
  for (const Buffer& b : buffers_)
    if (b.unit >= 0)
      throw std::logic_error("unit " + list_.units[static_cast<std::size_t>(b.unit)].name +
                             ": its gradients were begun and not reduced");
}

void UnitGradients::clear() {
  for (const Param& p : store_.all()) {
    if (p.is_cut && store_.layout().zero >= 2)
      zero(p.grad_shard, p.shard_size());
    else
      zero(p.grad.f32(), p.num_local());
  }
  env_.stream.synchronize();
}

}  // namespace moe
