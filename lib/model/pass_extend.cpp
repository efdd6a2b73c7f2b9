// Generation: a forward pass of tokens that go behind those in a cache. Blocks, tracks and exchanges are those of any
// forward pass (pass.cpp); positions, attention and the head are not.
#include <cstring>

#include "lib/model/track.h"

namespace moe {

void Pass::extend(std::span<const CacheRun> runs, std::span<const std::int32_t> id_T, bool tally) {
  const CacheStep step(*options_.cache, runs);
  if (step.num_tokens() != static_cast<std::int64_t>(id_T.size()))
    throw std::invalid_argument("extend: expected " + std::to_string(step.num_tokens()) + " tokens, found " +
                                std::to_string(id_T.size()));
  if (step.num_tokens() > options_.shape.num_tokens())
    throw std::invalid_argument("extend: expected at most " + std::to_string(options_.shape.num_tokens()) +
                                " tokens, found " + std::to_string(step.num_tokens()));
  for (std::size_t t = 0; t < id_T.size(); ++t) rope_.pos_T[t] = step.num_keys_T[t] - 1;
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

// Logits of the last tokens of each run only: rows that want none are skipped. The residual stream has been read by then,
// its memory takes the rows that the head sees.
void Pass::head_of_runs() {
  const auto& [stream, k] = env_;
  Track& t = *tracks_.front();
  normalise(t);
  std::int64_t begin = 0, rows = 0;
  for (const CacheRun& run : t.batch.cache->runs) {
    for (std::int64_t i = begin + run.count - run.num_logits; i < begin + run.count; ++i, ++rows)
      std::memcpy(t.x_TD.row(rows), t.n_TD.row(i), static_cast<std::size_t>(t.x_TD.cols) * size_of(t.x_TD.dtype));
    begin += run.count;
  }
  if (rows > t.logits_room.rows)
    throw std::invalid_argument("extend: expected at most " + std::to_string(t.logits_room.rows) +
                                " rows of logits, found " + std::to_string(rows));
  t.logits_TV = t.logits_room.slice_rows(0, rows);
  k.gemm.forward(stream, t.x_TD.slice_rows(0, rows), model_.head().weight, t.logits_TV, Store::kAssign);
}

}  // namespace moe
