#include "lib/tensor/param.h"

#include <numeric>
#include <stdexcept>

#include "lib/base/rng.h"

namespace moe {

std::int64_t ParamSpec::num_elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

ParamStore::ParamStore(Arena& arena, const std::vector<ParamSpec>& specs, DType dtype, bool training) {
  // One kind of state after the other, so that the weights lie together.
  for (const ParamSpec& spec : specs) params_.push_back({spec, arena.matrix(dtype, spec.num_rows(), spec.num_cols())});
  if (!training) return;
  for (Param& p : params_)
    p.master = dtype == DType::kF32 ? p.weight.f32() : arena.vector<float>(p.spec.num_elements()).data();
  for (Param& p : params_) p.grad = arena.matrix(DType::kF32, p.spec.num_rows(), p.spec.num_cols());
  for (Param& p : params_) p.m = arena.vector<float>(p.spec.num_elements()).data();
  for (Param& p : params_) p.v = arena.vector<float>(p.spec.num_elements()).data();
}

const Param& ParamStore::find(const std::string& name) const {
  for (const Param& p : params_)
    if (p.spec.name == name) return p;
  throw std::out_of_range("no parameter is named " + name);
}

void ParamStore::initialize(std::uint64_t seed) {
  for (Param& p : params_) {
    const Rng rng(seed, p.spec.name);
    const std::int64_t n = p.spec.num_elements();
#pragma omp parallel for schedule(static)
    for (std::int64_t i = 0; i < n; ++i) {
      const float value = p.spec.init_std == 0 ? 1.0f : p.spec.init_std * rng.normal(static_cast<std::uint64_t>(i));
      if (p.master) p.master[i] = value;
      if (p.weight.dtype == DType::kF32)
        p.weight.f32()[i] = value;
      else
        p.weight.bf16()[i] = to_bf16(value);
    }
  }
}

void ParamStore::round_masters() {
  for (Param& p : params_)
    if (p.weight.dtype == DType::kBF16)
      for (std::int64_t i = 0; i < p.spec.num_elements(); ++i) p.weight.bf16()[i] = to_bf16(p.master[i]);
}

std::vector<AdamWTensor> ParamStore::adamw_tensors(float decay) {
  std::vector<AdamWTensor> list;
  for (Param& p : params_)
    list.push_back({.w = p.master,
                    .w_bf16 = p.weight.dtype == DType::kBF16 ? p.weight.bf16() : nullptr,
                    .g = p.grad.f32(),
                    .m = p.m,
                    .v = p.v,
                    .n = p.spec.num_elements(),
                    .decay = p.spec.decays() ? decay : 0});
  return list;
}

}  // namespace moe
