// One training step of the specification: see reference_train.h.
#include "tests/reference_train.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace moe {
namespace {

double global_norm(const ReferenceParams& grads) {
  double sum = 0;
  for (const auto& [name, g] : grads)
    for (const double a : g) sum += a * a;
  return std::sqrt(sum);
}

// m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2;  w -= lr (m^ / (sqrt(v^) + eps) + decay w),  x^ = x / (1 - b^step)
void adamw(const ReferenceTraining& t, int step, const std::vector<double>& g, double clip, double decay,
           std::vector<double>& w, std::vector<double>& m, std::vector<double>& v) {
  m.resize(w.size()), v.resize(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) {
    m[i] = t.beta1 * m[i] + (1 - t.beta1) * g[i] * clip;
    v[i] = t.beta2 * v[i] + (1 - t.beta2) * g[i] * clip * g[i] * clip;
    const double m_hat = m[i] / (1 - std::pow(t.beta1, step)), v_hat = v[i] / (1 - std::pow(t.beta2, step));
    w[i] -= t.lr * (m_hat / (std::sqrt(v_hat) + t.eps) + decay * w[i]);
  }
}

// Matrices; neither norms, biases nor sinks.
bool decays(const std::string& name) { return name.ends_with(".weight") && !name.ends_with("norm.weight"); }

void update_bias(double speed, const std::vector<std::int64_t>& counts, std::vector<double>& bias) {
  // The sum first: a mean that is a whole number must compare equal to a count.
  const double sum = static_cast<double>(std::accumulate(counts.begin(), counts.end(), std::int64_t{0}));
  const double mean = sum / static_cast<double>(counts.size());
  for (std::size_t e = 0; e < bias.size(); ++e) {
    const double missing = mean - static_cast<double>(counts[e]);
    bias[e] += speed * ((missing > 0) - (missing < 0));
  }
}

}  // namespace

ReferenceStep reference_step(const ModelConfig& config, ReferenceInput input, const ReferenceLoss& loss,
                             const ReferenceTraining& training, ReferenceTrainState& state) {
  input.router_bias = state.router_bias;
  const ReferenceOutput out = reference_run(config, state.params, input, loss);
  const double norm = global_norm(out.grads);
  const double clip = training.max_grad_norm > 0 ? std::min(1.0, training.max_grad_norm / norm) : 1;
  ++state.num_steps;
  for (auto& [name, w] : state.params)
    adamw(training, state.num_steps, out.grads.at(name), clip, decays(name) ? training.weight_decay : 0, w, state.m[name],
          state.v[name]);
  for (auto& [name, bias] : state.router_bias)
    update_bias(training.bias_update_speed, out.counts.at(std::stoul(name.substr(7))), bias);  // "layers.{i}..."
  return {out.terms, norm};
}

}  // namespace moe
