// Generation: a forward pass of tokens that go behind those in a cache, of the model or of one of its modules. Blocks,
// tracks and exchanges are those of any forward pass (pass.cpp); positions, attention and the head are not.
#include "lib/model/track.h"

namespace moe {
namespace {

std::string text_of(CMat m) { return std::to_string(m.rows) + " x " + std::to_string(m.cols) + " in " + name_of(m.dtype); }

void check_hidden(CMat found, CMat expected) {
  if (found.rows != expected.rows || found.cols != expected.cols || found.dtype != expected.dtype)
    throw std::invalid_argument("extend: expected hidden states of " + text_of(expected) + ", found " + text_of(found));
  if (found.rows > 1 && found.stride != found.cols)
    throw std::invalid_argument("extend: expected hidden states with a row stride of " + std::to_string(found.cols) +
                                ", found " + std::to_string(found.stride));
}

}  // namespace

// Checked, with the positions of its tokens set.
CacheStep Pass::cache_step(std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, int module) {
  CacheStep step(*options_.cache, runs, module, cache_rows_, env_.stream);
  if (step.num_tokens() != static_cast<std::int64_t>(id_T.size()))
    throw std::invalid_argument("extend: expected " + std::to_string(step.num_tokens()) + " tokens, found " +
                                std::to_string(id_T.size()));
  env_.stream.copy(rope_.pos_T.data(), step.pos_T.data(), step.pos_T.size() * sizeof step.pos_T[0]);
  return step;
}

void Pass::extend(std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, bool tally) {
  const CacheStep step = cache_step(runs, id_T, 0);
  forward({.shape = {static_cast<int>(id_T.size()), 1},
           .id_T = id_T,
           .target_T = id_T,
           .with_gradient = false,
           .tally = tally,
           .cache = &step});
  step.lengthen();
  tracks_.front()->batch = {};  // the step ends here
}

Mat Pass::hidden() const { return tracks_.front()->n_TD; }

Mat Pass::module_hidden(int k) const { return tracks_.front()->mtp[static_cast<std::size_t>(k)].h_TD; }

// Embedding and block are those of any forward pass; every token has its hidden state beside it.
void Pass::extend_module(int k, std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, CMat hidden_TD) {
  if (k < 0 || k >= num_modules_)
    throw std::invalid_argument("extend: expected a module below " + std::to_string(num_modules_) + ", found " +
                                std::to_string(k));
  const CacheStep step = cache_step(runs, id_T, k + 1);
  check_hidden(hidden_TD, {.dtype = model_.dtype(), .rows = step.num_tokens(), .cols = model_.config().d_model});
  const int layer = model_.config().num_layers + k;
  const auto at = static_cast<std::size_t>(layer);
  const MicroBatch batch{.shape = {static_cast<int>(id_T.size()), 1},
                         .id_T = id_T,
                         .target_T = id_T,
                         .with_gradient = false,
                         .tally = false,
                         .cache = &step};
  Track& t = *tracks_.front();
  put_into(t, batch, env_.stream);
  env_.stream.copy(t.n_TD.data, hidden_TD.data,  // those of the model have been read
                   static_cast<std::size_t>(t.n_TD.rows * t.n_TD.cols) * size_of(t.n_TD.dtype));
  const MtpTokens tokens{.ahead = 0, .runs = {{0, step.num_tokens()}}, .target_T = {}};  // embedded, row by row
  Units& units = model_.units();
  units.use(units.embedding());
  units.prefetch(units.dense(layer));
  const Mat embedded = t.slots.front().x0_TD;
  env_.kernels.embedding.forward(env_.stream, t.batch.id_T, model_.params().find("embedding.weight").weight, embedded);
  units.release(units.embedding());
  units.use(units.dense(layer));
  mtp_join_forward({env_, model_.config(), block_params_[at], tokens, embedded, t.n_TD, t.mtp_work}, t.slots[at].x0_TD);
  forward_block(layer, units.head());
  await(t);
  const MtpSlot& m = t.mtp[static_cast<std::size_t>(k)];
  mtp_norm_forward(env_, model_.config(), block_params_[at], m);
  units.release(units.dense(layer));
  use_head();
  head_of_runs(m.h_TD);
  release_head();
  step.lengthen();
  t.batch = {};
}

// Logits of the last tokens of each run only: rows that want none are skipped. The residual stream has been read by then,
// its memory takes the rows that the head sees.
void Pass::head_of_runs(Mat hidden_TD) {
  const auto& [stream, k] = env_;
  Track& t = *tracks_.front();
  const std::span<const std::int64_t> row_N = t.batch.cache->rows.logits_row_N;
  const auto N = static_cast<std::int64_t>(row_N.size());
  const Mat seen = t.x_TD.slice_rows(0, N);
  k.elements.copy_rows(stream, hidden_TD, row_N.data(), seen, nullptr, N);
  t.logits_TV = t.logits_room.slice_rows(0, N);
  k.gemm.forward(stream, seen, model_.head().weight, t.logits_TV, Store::kAssign);
}

}  // namespace moe
