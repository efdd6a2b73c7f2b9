#include "lib/tensor/param.h"

#include <algorithm>
#include <numeric>
#include <stdexcept>
#include <string_view>

#include "lib/base/rng.h"

namespace moe {
namespace {

// What a rank has of a parameter as a matrix, and the rows that are its shard: of `cut_rows`, each of `cols` elements.
struct Shard {
  std::int64_t local_rows, cut_rows, begin, rows, cols;
};
Shard shard_of(const ParamSpec& spec, const ParamLayout& layout) {
  const Cut& cut = spec.is_expert ? layout.expert : layout.dense;
  std::int64_t local_rows = spec.num_rows(), cut_rows = spec.shape[0];
  if (spec.is_expert) local_rows = cut_rows = spec.shape[1] * static_cast<std::int64_t>(layout.experts(spec.layer()).size());
  const std::int64_t begin = cut.begin(cut_rows), rows = cut.end(cut_rows) - begin;
  return {local_rows, cut_rows, begin, rows, cut_rows > 0 ? local_rows * spec.num_cols() / cut_rows : spec.num_cols()};
}

// Name, local shape and cut; memory comes after.
Param describe(const ParamSpec& spec, DType dtype, const ParamLayout& layout) {
  Param p{.spec = spec};
  const Shard shard = shard_of(spec, layout);
  p.weight = {nullptr, dtype, shard.local_rows, spec.num_cols(), spec.num_cols()};
  p.grad = {nullptr, DType::kF32, shard.local_rows, spec.num_cols(), spec.num_cols()};
  p.is_cut = (spec.is_expert ? layout.expert : layout.dense).count > 1;
  p.shard_begin = shard.begin, p.shard_rows = shard.rows, p.shard_cols = shard.cols;
  return p;
}

void* offset(void* base, std::int64_t elements, DType dtype) {
  return base ? static_cast<std::byte*>(base) + static_cast<std::size_t>(elements) * size_of(dtype) : nullptr;
}

}  // namespace

std::int64_t ParamSpec::num_elements() const {
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

int ParamSpec::layer() const {
  constexpr std::string_view kLayers = "layers.";
  return name.starts_with(kLayers) ? std::stoi(name.substr(kLayers.size())) : -1;
}

ParamLayout ParamLayout::whole(int num_experts) {
  ParamLayout layout;
  for (int e = 0; e < num_experts; ++e) layout.layer2experts[0].push_back({e});
  return layout;
}

std::size_t ParamLayout::most_experts() const {
  std::size_t most = 0;
  for (const auto& experts : layer2experts) most = std::max(most, experts.size());
  return most;
}

bool ParamLayout::has_copies() const {
  return std::any_of(layer2experts.begin(), layer2experts.end(), [](const auto& experts) {
    return std::any_of(experts.begin(), experts.end(), [](const LocalExpert& e) { return e.is_copy; });
  });
}

ParamStore::ParamStore(Arena& arena, const std::vector<ParamSpec>& specs, DType dtype, bool training,
                       const ParamLayout& layout, const TrainingState& state)
    : layout_(layout), dtype_(dtype), training_(training), state_(state) {
  for (const ParamSpec& spec : specs) params_.push_back(describe(spec, dtype, layout));
  // One kind of state after the other, so that the weights lie together.
  for (Param& p : params_) {
    if (p.is_cut && layout.zero == 3) {
      p.weight_shard = arena.take(static_cast<std::size_t>(p.shard_size()) * size_of(dtype));
    } else {
      p.weight.data = arena.take(static_cast<std::size_t>(p.num_local()) * size_of(dtype));
      p.weight_shard = offset(p.weight.data, p.shard_begin * p.shard_cols, dtype);
    }
  }
  if (!training) return;
  const auto floats = [&](std::int64_t n) { return arena.vector<float>(n).data(); };
  for (Param& p : params_) p.master = dtype == DType::kF32 ? static_cast<float*>(p.weight_shard) : floats(p.shard_size());
  for (Param& p : params_) {
    if (p.is_cut && layout.zero >= 2) {
      p.grad_shard = floats(p.shard_size());
    } else {
      p.grad.data = floats(p.num_local());
      p.grad_shard = static_cast<float*>(offset(p.grad.data, p.shard_begin * p.shard_cols, DType::kF32));
    }
  }
  const auto moments = [&](const Param& p) { return arena.matrix(state.moments, p.shard_rows, p.shard_cols); };
  for (Param& p : params_) p.is_muon = state.muon && !p.spec.matrix_rows.empty();
  for (Param& p : params_) p.m = moments(p);
  for (Param& p : params_)
    if (!p.is_muon) p.v = moments(p);
}

void ParamStore::take_ema(Arena& host) {
  if (!training_ || !state_.ema) return;
  for (Param& p : params_) p.ema = host.vector<float>(p.shard_size()).data();
}

const Param& ParamStore::find(const std::string& name) const {
  for (const Param& p : params_)
    if (p.spec.name == name) return p;
  throw std::out_of_range("no parameter is named " + name);
}

std::vector<ShardRun> shard_runs(const ParamSpec& spec, const ParamLayout& layout) {
  const Shard shard = shard_of(spec, layout);
  if (shard.rows == 0) return {};
  if (!spec.is_expert) return {{0, shard.begin * shard.cols, shard.rows * shard.cols}};
  const std::vector<LocalExpert>& experts = layout.experts(spec.layer());
  std::vector<ShardRun> list;
  const std::int64_t rows_per_expert = spec.shape[1], end = shard.begin + shard.rows;
  for (std::int64_t row = shard.begin; row < end;) {
    const std::int64_t place = row / rows_per_expert, next = std::min(end, (place + 1) * rows_per_expert);
    const LocalExpert& expert = experts[static_cast<std::size_t>(place)];
    const std::int64_t global_row = expert.id * rows_per_expert + row % rows_per_expert;
    const ShardRun run{(row - shard.begin) * shard.cols, global_row * shard.cols, (next - row) * shard.cols, expert.is_copy};
    if (!list.empty() && list.back().global + list.back().count == run.global && list.back().is_copy == run.is_copy)
      list.back().count += run.count;
    else
      list.push_back(run);
    row = next;
  }
  return list;
}

void ParamStore::initialize(std::uint64_t seed) {
  for (Param& p : params_) {
    const Rng rng(seed, p.spec.name);
    for (const ShardRun& run : runs(p)) {
#pragma omp parallel for schedule(static)
      for (std::int64_t i = 0; i < run.count; ++i) {
        const auto global = static_cast<std::uint64_t>(run.global + i);
        const float value = p.spec.init_std == 0 ? (p.spec.is_bias ? 0.0f : 1.0f) : p.spec.init_std * rng.normal(global);
        if (p.master) p.master[run.at + i] = value;
        if (dtype_ == DType::kF32)
          static_cast<float*>(p.weight_shard)[run.at + i] = value;
        else
          static_cast<BF16*>(p.weight_shard)[run.at + i] = to_bf16(value);
      }
    }
  }
}

void ParamStore::round_masters(Env env) {
  if (dtype_ != DType::kBF16) return;
  for (Param& p : params_)
    env.kernels.elements.copy(env.stream, mat(p.master, 1, p.shard_size()),
                              mat(static_cast<BF16*>(p.weight_shard), 1, p.shard_size()), Store::kAssign);
}

void ParamStore::start_ema(Stream& stream) {
  if (!state_.ema) return;
  for (Param& p : params_) stream.copy(p.ema, p.master, static_cast<std::size_t>(p.shard_size()) * sizeof(float));
}

void ParamStore::swap_ema(Env env) {
  for (Param& p : params_) {
    const auto n = static_cast<std::size_t>(p.shard_size());
    env.kernels.elements.swap(env.stream, {p.master, n}, {p.ema, n});
  }
  round_masters(env);
}

std::vector<AdamWTensor> ParamStore::adamw_tensors(float decay) { return optimizer_tensors(false, decay); }
std::vector<AdamWTensor> ParamStore::muon_tensors(float decay) { return optimizer_tensors(true, decay); }

std::vector<AdamWTensor> ParamStore::optimizer_tensors(bool muon, float decay) {
  std::vector<AdamWTensor> list;
  for (Param& p : params_)
    if (p.shard_size() > 0 && p.is_muon == muon)
      list.push_back({.w = p.master,
                      .w_bf16 = dtype_ == DType::kBF16 ? static_cast<BF16*>(p.weight_shard) : nullptr,
                      .g = p.grad_shard,
                      .m = p.m.data,
                      .v = p.v.data,
                      .n = p.shard_size(),
                      .decay = p.spec.decays() ? decay : 0,
                      .moments = state_.moments});
  return list;
}

}  // namespace moe
