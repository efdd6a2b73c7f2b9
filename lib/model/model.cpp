#include "lib/model/model.h"

#include <numeric>

namespace moe {
namespace {

std::size_t param_bytes(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout) {
  Arena measuring(0);
  ParamStore store(measuring, parameter_specs(config), dtype, training, layout);
  return measuring.used_bytes();
}

}  // namespace

Model::Model(const ModelConfig& config, DType dtype, bool training, const ParamLayout& layout)
    : config_(config),
      dtype_(dtype),
      training_(training),
      arena_(param_bytes(config, dtype, training, layout)),
      params_(arena_, parameter_specs(config), dtype, training, layout),
      router_bias_(static_cast<std::size_t>(config.num_layers)) {
  if (!config.router_bias) return;
  for (int i : moe_layers()) router_bias(i).assign(static_cast<std::size_t>(config.num_experts), 0.0f);
}

const Param& Model::head() const { return params_.find(config_.tied_embeddings ? "embedding.weight" : "head.weight"); }

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

ModelMemory predict_memory(const ModelConfig& config, DType dtype, const PassOptions& pass) {
  std::size_t n = 0;
  for (const ParamSpec& s : parameter_specs(config)) n += static_cast<std::size_t>(s.num_elements());
  ModelMemory m;
  m.weights = n * size_of(dtype);
  m.activations = activation_bytes(config, dtype, pass);
  if (!pass.training) return m;
  m.masters = dtype == DType::kF32 ? 0 : 4 * n;
  m.grads = 4 * n;
  m.moments = 8 * n;
  return m;
}

}  // namespace moe
