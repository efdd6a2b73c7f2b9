#include "lib/model/model.h"

#include <numeric>

#include "lib/model/host_model.h"

namespace moe {

Model::Model(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout, const TrainingState& state,
             const Device& device)
    : config_(config),
      dtype_(dtype),
      training_(training),
      router_bias_(static_cast<std::size_t>(config.num_blocks())),
      device_router_bias_(router_bias_.size()) {
  take_memory(layout, state, device);
}

Model::Model(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout, const TrainingState& state)
    : Model(config, dtype, training, layout, state, cpu_device()) {}

Model::Model(const ModelConfig& config, DType dtype, bool training, MeshContext& mesh, const TrainingState& state)
    : Model(config, dtype, training, mesh.layout(), state, mesh.lane_env().stream.device()) {
  mesh_ = &mesh;
  units_ = std::make_unique<Units>(*params_, mesh.unit_comms(), mesh.lane(), training, mesh.lane_env());
}

Model::Model(const ModelConfig& config, DType dtype, bool training, const Kernels& kernels, const Device& device)
    : Model(config, dtype, training, ParamLayout::whole(config.num_experts), {}, device) {
  own_world_ = std::make_unique<World>();
  own_mesh_ = std::make_unique<MeshContext>(*own_world_, MeshOptions{}, config.num_experts, kernels, device);
  mesh_ = own_mesh_.get();
  units_ = std::make_unique<Units>(*params_, UnitComms{}, mesh_->lane(), training, mesh_->lane_env());
}

void Model::take_memory(const ParamLayout& layout, const TrainingState& state, const Device& device) {
  const std::vector<ParamSpec> specs = parameter_specs(config_);
  const bool copies_bias = device.kind != DeviceKind::kCpu;
  if (config_.router_bias)
    for (int i : moe_layers()) router_bias(i).assign(static_cast<std::size_t>(config_.num_experts), 0.0f);
  const auto take = [&](Arena& arena) {
    for (std::size_t i = 0; i < router_bias_.size(); ++i)
      if (copies_bias) device_router_bias_[i] = arena.vector<float>(static_cast<std::int64_t>(router_bias_[i].size()));
    return std::make_unique<ParamStore>(arena, specs, dtype_, training_, layout, state);
  };
  Arena measuring(0, device);
  take(measuring);
  arena_ = std::make_unique<Arena>(measuring.used_bytes(), device);
  params_ = take(*arena_);
  if (!training_ || !state.ema) return;
  Arena measuring_ema(0);
  params_->take_ema(measuring_ema);
  ema_arena_ = std::make_unique<Arena>(measuring_ema.used_bytes(), device, Arena::Backing::kHost);
  params_->take_ema(*ema_arena_);
  average_ = std::make_unique<MovingAverage>(*params_, device);
}

Stream& Model::settled_stream() {
  if (average_) average_->join(mesh_->compute_stream());
  return mesh_->settled_stream();
}

void Model::initialize(std::uint64_t seed) {
  HostModel host(*this);
  host.model().params().initialize(seed);
  host.push_parameters();  // moments stay what they are, and need not cross the bus
}

void Model::router_bias_changed() {
  if (on_host()) return;
  Stream& stream = mesh_->compute_stream();  // in order with what reads them
  for (std::size_t i = 0; i < router_bias_.size(); ++i)
    stream.copy(device_router_bias_[i].data(), router_bias_[i].data(), device_router_bias_[i].size_bytes());
  if (&stream == &mesh_->lane_env().stream) stream.synchronize();
}

const Param& Model::head() const { return params_->find(config_.tied_embeddings ? "embedding.weight" : "head.weight"); }

std::vector<int> Model::moe_layers() const {
  std::vector<int> list(static_cast<std::size_t>(config_.num_moe_layers()));
  std::iota(list.begin(), list.end(), config_.num_dense_layers);
  return list;
}

void update_router_bias(std::span<float> bias_E, std::span<const std::int64_t> counts_E, float speed) {
  const std::int64_t total = std::accumulate(counts_E.begin(), counts_E.end(), std::int64_t{0});
  const auto E = static_cast<std::int64_t>(counts_E.size());
  for (std::size_t e = 0; e < bias_E.size(); ++e) {
    const std::int64_t below_mean = total - counts_E[e] * E;  // E times (mean - count): exact in integers
    if (below_mean > 0) bias_E[e] += speed;
    if (below_mean < 0) bias_E[e] -= speed;
  }
}

}  // namespace moe
