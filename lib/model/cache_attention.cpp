// The core of attention over a cache (kv_cache.h): new keys and values, or compressed vectors, go into it, then the new
// tokens attend. Sequences that begin with many tokens attend among themselves as in training, which is faster there.
// Latent attention of few tokens is computed on the compressed vectors, with the up-projection absorbed (DeepSeek-V2,
// section 2.1.2). Not here: the projections (gqa.cpp, mla.cpp).
#include <tuple>

#include "lib/model/block.h"

namespace moe {
namespace {

// Rows of x become the rows of the new tokens in a matrix of the cache.
void append(const Env& env, const CacheStep& step, CMat x, Mat to) {
  env.kernels.elements.copy_rows(env.stream, x, nullptr, to, step.rows.row_T.data(), step.num_tokens());
}

// Queries, keys and values of all new tokens.
struct Heads {
  Mat q, k, v;
};

// Tokens [begin, begin + count), a sequence of their own.
void attend_alone(const SegmentArgs& a, AttentionShape shape, const Heads& h, std::int64_t begin, int count) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto rows = [&](Mat m) { return m.slice_rows(begin, count); };
  shape.num_seqs = 1, shape.seq_len = count;
  b.env.kernels.attention.forward(b.env.stream, shape, rows(h.q), rows(h.k), rows(h.v), nullptr, rows(s.o_TC),
                                  s.lse_TH.data() + begin * b.config.num_heads);
}

void attend_to_cache(const SegmentArgs& a, const AttentionShape& shape, Mat q, Mat o, std::int64_t begin, int count) {
  const CacheStep& step = *a.batch.cache;
  const BlockContext& b = a.block;
  const auto at = static_cast<std::size_t>(begin), n = static_cast<std::size_t>(count);
  b.env.kernels.cache_attention.forward(b.env.stream, shape, q.slice_rows(begin, count), step.cache->keys(b.layer),
                                        step.cache->values(b.layer), step.rows.first_row_T.subspan(at, n),
                                        step.rows.num_keys_T.subspan(at, n), o.slice_rows(begin, count));
}

}  // namespace

void gqa_over_cache(const SegmentArgs& a, const AttentionShape& shape, Mat q, Mat k, Mat v) {
  const CacheStep& step = *a.batch.cache;
  append(a.block.env, step, k, step.cache->keys(a.block.layer));
  append(a.block.env, step, v, step.cache->values(a.block.layer));
  std::int64_t begin = 0, few = 0;  // runs side by side that look into the cache go together
  const auto attend_few = [&] {
    if (few > 0) attend_to_cache(a, shape, q, a.slot.o_TC, begin - few, static_cast<int>(few));
    few = 0;
  };
  for (const CacheRun& run : step.runs) {
    if (step.is_prefill(run)) {
      attend_few();
      attend_alone(a, shape, {q, k, v}, begin, run.count);
    } else {
      few += run.count;
    }
    begin += run.count;
  }
  attend_few();
}

void mla_prefill(const SegmentArgs& a) {
  std::int64_t begin = 0;
  for (const CacheRun& run : a.batch.cache->runs) {
    attend_alone(a, a.block.attention_shape(a.batch.shape), {a.slot.mla.q_TC, a.slot.mla.k_TC, a.slot.mla.v_TC}, begin,
                 run.count);
    begin += run.count;
  }
}

void append_latent(const SegmentArgs& a, Mat normed, Mat key_part) {
  const CacheStep& step = *a.batch.cache;
  const Mat to = step.cache->keys(a.block.layer);
  append(a.block.env, step, normed, to.slice_cols(0, normed.cols));
  append(a.block.env, step, key_part, to.slice_cols(normed.cols, key_part.cols));
}

void mla_over_cache(const SegmentArgs& a) {
  const auto& [b, s] = std::tie(a.block, a.slot);
  const auto& [stream, k] = b.env;
  const ModelConfig& c = b.config;
  const LatentShape latent = latent_shape(c);
  const std::int64_t T = a.batch.shape.num_tokens();
  const auto view = [&](Mat room, std::int64_t cols) { return room.slice_rows(0, T).slice_cols(0, cols); };
  const Mat qa = view(b.work.mla.absorbed_q, std::int64_t{c.num_heads} * (c.kv_lora_rank + c.qk_rope_head_dim));
  const Mat oa = view(b.work.mla.absorbed_o, std::int64_t{c.num_heads} * c.kv_lora_rank);
  k.latent.absorb(stream, latent, s.mla.q_TC, b.params.kv_b->weight, qa);
  AttentionShape shape = b.attention_shape(a.batch.shape);
  shape.num_kv_heads = 1;
  shape.head_dim = c.kv_lora_rank + c.qk_rope_head_dim;
  shape.value_dim = c.kv_lora_rank;
  attend_to_cache(a, shape, qa, oa, 0, static_cast<int>(T));
  k.latent.expand(stream, latent, oa, b.params.kv_b->weight, s.o_TC);
}

}  // namespace moe
