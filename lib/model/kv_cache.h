// What generation keeps of the tokens so far: for each block and token the keys and values of grouped-query attention, or
// the compressed vector of latent attention, kv_lora_rank + qk_rope_head_dim elements whatever the heads. A sequence has
// room for as many positions as every other and is as long as it is; shortening it forgets the tokens behind, so that
// drafts that were wrong are taken back. Blocks are those of the model and of its modules of multi-token prediction: module
// 0 is the model, module k >= 1 the k-th of those, and each module has lengths of its own.
// Not here: who computes what is kept (cache_attention.cpp), attention over it (kernels/cache_attention.cpp).
#pragma once

#include <memory>
#include <vector>

#include "lib/model/config.h"
#include "lib/tensor/arena.h"

namespace moe {

class KvCache {
 public:
  // Memory is touched when it is filled.
  KvCache(const ModelConfig& config, DType dtype, int num_seqs, int room, const Device& device = cpu_device());

  int num_seqs() const { return num_seqs_; }
  int room() const { return room_; }  // positions of a sequence
  int length(int seq, int module = 0) const { return lengths_[index(seq, module)]; }
  // 0 <= length <= room; what lies behind is forgotten. Throws std::invalid_argument.
  void set_length(int seq, int length, int module = 0);
  std::int64_t first_row(int seq) const { return std::int64_t{seq} * room_; }  // of its position 0
  // [num_seqs * room, width]. kMla: a key is the normed compressed vector and the turned key part, its first kv_lora_rank
  // columns are the value.
  Mat keys(int block) const { return keys_[static_cast<std::size_t>(block)]; }
  Mat values(int block) const { return values_[static_cast<std::size_t>(block)]; }

  // Of the blocks of the model, without its modules.
  static std::int64_t elements_per_token(const ModelConfig& config);
  static std::int64_t bytes_per_token(const ModelConfig& config, DType dtype) {
    return elements_per_token(config) * static_cast<std::int64_t>(size_of(dtype));
  }

 private:
  void take(Arena& arena, const ModelConfig& config, DType dtype);
  std::size_t index(int seq, int module) const;

  int num_seqs_, room_;
  std::unique_ptr<Arena> arena_;
  std::vector<Mat> keys_, values_;
  std::vector<int> lengths_;  // [module][seq]
};

// Tokens that a sequence of a cache gets in one pass, and how many of the last of them want logits.
struct CacheRun {
  int seq = 0, count = 1, num_logits = 1;
};

// What kernels read of the tokens of a step.
struct CacheRows {
  std::span<std::int64_t> first_row_T;   // of the token's sequence in the cache
  std::span<std::int64_t> row_T;         // of the token itself
  std::span<std::int32_t> num_keys_T;    // that it sees, its own included: its position + 1
  std::span<std::int64_t> logits_row_N;  // tokens that want logits
};
CacheRows take_cache_rows(Arena& arena, std::int64_t most_tokens, std::int64_t most_logits);

// A micro-batch of such tokens, one run after the other; each sequence at most once.
struct CacheStep {
  KvCache* cache;
  int module;  // whose lengths count
  std::span<const CacheRun> runs;
  CacheRows rows;  // memory of the device, in the room of who makes the step
  std::vector<std::int32_t> pos_T;

  // Throws std::invalid_argument where a sequence, or the room, is too small.
  CacheStep(KvCache& cache, std::span<const CacheRun> runs, int module, const CacheRows& room, Stream& stream);
  std::int64_t num_tokens() const { return static_cast<std::int64_t>(pos_T.size()); }
  // Sequences that begin here with more tokens than a decoding step has: their attention needs no cache.
  bool is_prefill(const CacheRun& run) const { return run.count > kFewTokens && cache->length(run.seq, module) == 0; }
  bool is_prefill() const;  // all runs
  void lengthen() const;    // the tokens are in the cache
  static constexpr int kFewTokens = 8;
};

}  // namespace moe
