#include "lib/model/host_model.h"

namespace moe {

HostModel::HostModel(Model& model) : original_(model) {
  if (model.on_host()) return;
  const ParamStore& store = model.params();
  copy_ = std::make_unique<Model>(model.config(), model.dtype(), model.training(), store.layout(), store.state());
  if (!model.average()) return;
  model.settled_stream();
  for (std::size_t i = 0; i < store.all().size(); ++i) copy_->params().all()[i].ema = store.all()[i].ema;
}

// move(memory here, memory of the device, bytes) for the weights and masters of a shard ...
template <class Move>
void HostModel::move_parameters(Move move) {
  std::vector<Param>&here = copy_->params().all(), &there = original_.params().all();
  for (std::size_t i = 0; i < here.size(); ++i) {
    const Param &a = here[i], &b = there[i];
    const auto n = static_cast<std::size_t>(a.shard_size());
    move(a.weight_shard, b.weight_shard, n * size_of(original_.dtype()));
    if (a.master && static_cast<void*>(a.master) != a.weight_shard) move(a.master, b.master, n * sizeof(float));
  }
}

// ... and for all that it has on the device.
template <class Move>
void HostModel::move(Move move) {
  move_parameters(move);
  std::vector<Param>&here = copy_->params().all(), &there = original_.params().all();
  for (std::size_t i = 0; i < here.size(); ++i) {
    const Param &a = here[i], &b = there[i];
    const auto n = static_cast<std::size_t>(a.shard_size());
    const std::size_t moment_bytes = n * size_of(a.m.dtype);
    if (a.m.data) move(a.m.data, b.m.data, moment_bytes);
    if (a.v.data) move(a.v.data, b.v.data, moment_bytes);
  }
}

void HostModel::pull() {
  if (!copy_) return;
  Stream& stream = original_.settled_stream();
  move([&](void* here, void* there, std::size_t bytes) { stream.copy(here, there, bytes); });
  for (const int layer : original_.moe_layers()) copy_->router_bias(layer) = original_.router_bias(layer);
  stream.synchronize();
}

void HostModel::push_parameters() {
  if (!copy_) return;
  Stream& stream = original_.settled_stream();
  move_parameters([&](void* here, void* there, std::size_t bytes) { stream.copy(there, here, bytes); });
  stream.synchronize();
}

void HostModel::push() {
  if (!copy_) return;
  Stream& stream = original_.settled_stream();
  move([&](void* here, void* there, std::size_t bytes) { stream.copy(there, here, bytes); });
  stream.synchronize();
  for (const int layer : original_.moe_layers()) original_.router_bias(layer) = copy_->router_bias(layer);
  original_.router_bias_changed();
}

}  // namespace moe
