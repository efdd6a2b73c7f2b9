// The memory of a pass: tracks, tables of the rotary embedding; and the prediction of all memory of a rank.
// Not here: what is done with it (pass.cpp).
#include <algorithm>
#include <cmath>
#include <functional>

#include "lib/model/track.h"
#include "lib/parallel/muon.h"

namespace moe {
namespace {

// Rows of the experts here in a track of so many tokens.
using RowsOfTokens = std::function<std::int64_t(std::int64_t)>;

RowsOfTokens max_rows(const ModelConfig& c, const MeshShape& shape, int num_experts_here) {
  return [=, K = c.top_k](std::int64_t tokens) { return Dispatcher::max_rows(tokens * shape.ep, K, num_experts_here); };
}
RowsOfTokens balanced_rows(const ModelConfig& c, const MeshShape& shape, int num_experts_here) {
  return [=, K = c.top_k, E = c.num_experts](std::int64_t tokens) {
    return (tokens * shape.ep * K * num_experts_here + E - 1) / E;
  };
}

// Rows on their way in one exchange: those that leave and, on the way back, those that came and their sums.
std::size_t exchange_bytes(const ModelConfig& c, DType dtype, const MeshShape& shape, std::int64_t tokens) {
  if (shape.ep == 1) return 0;
  const double others = shape.ep * (1 - std::pow(1 - 1.0 / shape.ep, c.top_k));  // ranks that a token goes to, expected
  return static_cast<std::size_t>(3 * others * static_cast<double>(tokens * c.d_model)) * size_of(dtype);
}

struct PassMemory {
  std::vector<std::unique_ptr<Track>> tracks;
  RopeTables rope;
  TallyMemory tallies;
  CacheRows cache_rows;
};

PassMemory take_memory(const SlotArenas& arenas, const ModelConfig& c, DType dtype, const PassOptions& o,
                       const MeshOptions& mesh, int num_experts_here, const RowsOfTokens& rows) {
  Arena& arena = arenas.tokens;
  const int n = num_tracks(o, mesh);
  const std::int64_t P = o.cache ? o.cache->room() : o.shape.seq_len, half = c.rope_dim() / 2;
  PassMemory m;
  for (int i = 0; i < n; ++i) {
    const BatchShape shape = track_shape(o.shape, n, i);
    m.tracks.push_back(take_track(
        arenas, {c, shape, dtype, rows(shape.num_tokens()), num_experts_here, num_modules(o, c), o.cache != nullptr}, o));
  }
  m.rope = {arena.vector<float>(P * half), arena.vector<float>(P * half), arena.vector<std::int32_t>(o.shape.num_tokens())};
  m.tallies = take_tally_memory(arena, c, num_modules(o, c));
  if (o.cache) m.cache_rows = take_cache_rows(arena, o.shape.num_tokens(), o.max_logits);
  return m;
}

// Angles in double.
void fill_rope(const RopeTables& rope, const ModelConfig& c, std::size_t P, Stream& stream) {
  const auto half = static_cast<std::size_t>(c.rope_dim() / 2);
  std::vector<float> cos_PR2(P * half), sin_PR2(P * half);
  std::vector<std::int32_t> pos_T(rope.pos_T.size());
  const double factor = c.yarn.table_factor();
  for (std::size_t p = 0; p < P; ++p)
    for (std::size_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(p) * c.rope_frequency(static_cast<int>(i));
      cos_PR2[p * half + i] = static_cast<float>(factor * std::cos(angle));
      sin_PR2[p * half + i] = static_cast<float>(factor * std::sin(angle));
    }
  for (std::size_t t = 0; t < pos_T.size(); ++t) pos_T[t] = static_cast<std::int32_t>(t % P);
  stream.copy(rope.cos_PR2.data(), cos_PR2.data(), rope.cos_PR2.size_bytes());
  stream.copy(rope.sin_PR2.data(), sin_PR2.data(), rope.sin_PR2.size_bytes());
  stream.copy(rope.pos_T.data(), pos_T.data(), rope.pos_T.size_bytes());
}

}  // namespace

int num_tracks(const PassOptions& pass, const MeshOptions& mesh) {
  return pass.training && mesh.overlap && mesh.halves && mesh.shape.ep > 1 && pass.shape.num_seqs > 1 ? 2 : 1;
}

Pass::Pass(Model& model, const PassOptions& options, Env env)
    : model_(model),
      options_(options),
      env_(env),
      num_modules_(moe::num_modules(options, model.config())),
      plan_rooms_(env.stream.device()) {
  const ModelConfig& c = model.config();
  const int num_experts_here = static_cast<int>(model.params().layout().most_experts());
  const MeshOptions& mesh = model.mesh().options();
  const auto take = [&](Arena& tokens, Arena& rows) {
    return take_memory({tokens, rows}, c, model.dtype(), options, mesh, num_experts_here,
                       max_rows(c, mesh.shape, num_experts_here));
  };
  const Device& device = env.stream.device();
  Arena measuring(0, device), measuring_rows(0, device);
  take(measuring, measuring_rows);
  const auto backing = mesh.shape.ep > 1 ? Arena::Backing::kOnDemand : Arena::Backing::kAtOnce;
  arena_ = std::make_unique<Arena>(measuring.used_bytes(), device);
  rows_arena_ = std::make_unique<Arena>(std::max<std::size_t>(1, measuring_rows.used_bytes()), device, backing);
  PassMemory memory = take(*arena_, *rows_arena_);
  tracks_ = std::move(memory.tracks);
  rope_ = memory.rope;
  tallies_ = std::make_unique<Tallies>(c, num_modules_, memory.tallies, world(), env.stream);
  cache_rows_ = memory.cache_rows;
  fill_rope(rope_, c, static_cast<std::size_t>(options.cache ? options.cache->room() : options.shape.seq_len), env.stream);
  for (int i = 0; i < c.num_layers + num_modules_; ++i) block_params_.push_back(block_params(model.params(), i));
  model.mesh().follow(env.stream);
  reset_tallies();
}

// What is on its way reads this memory.
Pass::~Pass() {
  try {
    model_.mesh().lane().wait_all();
  } catch (...) {  // told where it was waited for
  }
}

ModelMemory predict_memory(const ModelConfig& config, DType dtype, const PassOptions& pass, const MeshOptions& mesh,
                           const MeshPlace& place, std::int64_t rows_of_track, const TrainingState& state,
                           DeviceKind device) {
  const ParamLayout layout = layout_of(mesh, place, config.num_experts);
  Arena measuring(0), activations(0), rows(0);
  const ParamStore store(measuring, parameter_specs(config), dtype, pass.training, layout, state);
  ModelMemory m;
  for (const Param& p : store.all()) {
    const auto shard = static_cast<std::size_t>(p.shard_size()), all = static_cast<std::size_t>(p.num_local());
    m.weights += size_of(dtype) * (layout.zero == 3 ? shard : all);
    if (!pass.training) continue;
    m.masters += dtype == DType::kF32 ? 0 : 4 * shard;
    m.grads += 4 * (layout.zero >= 2 ? shard : all);
    m.moments += (p.is_muon ? 1 : 2) * size_of(state.moments) * shard;
    m.ema += state.ema ? 4 * shard : 0;
    m.saved += size_of(dtype) * shard;
  }
  m.saved += m.masters + m.moments + m.ema;
  const RowsOfTokens balanced = balanced_rows(config, mesh.shape, static_cast<int>(layout.most_experts()));
  take_memory({activations, rows}, config, dtype, pass, mesh, static_cast<int>(layout.most_experts()),
              [&](std::int64_t tokens) { return rows_of_track >= 0 ? rows_of_track : balanced(tokens); });
  m.activations = activations.used_bytes() + rows.used_bytes();
  m.buffers = Units::buffer_bytes(store, pass.training, mesh.shape.replicate) + Muon::buffer_bytes(store) +
              exchange_bytes(config, dtype, mesh.shape, track_shape(pass.shape, num_tracks(pass, mesh), 0).num_tokens());
  if (device != DeviceKind::kCpu && pass.training && state.ema) m.buffers += MovingAverage::device_bytes(store);
  return m;
}

}  // namespace moe
