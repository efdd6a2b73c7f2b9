#include "lib/model/kv_cache.h"

#include <algorithm>
#include <stdexcept>

namespace moe {
namespace {

struct Widths {
  std::int64_t key, value;  // value: of a matrix of its own
};
Widths widths_of(const ModelConfig& c) {
  const std::int64_t kv = std::int64_t{c.num_kv_heads} * c.head_dim;
  return c.is_mla() ? Widths{c.kv_lora_rank + c.qk_rope_head_dim, 0} : Widths{kv, kv};
}

}  // namespace

KvCache::KvCache(const ModelConfig& config, DType dtype, int num_seqs, int room)
    : num_seqs_(num_seqs),
      room_(room),
      lengths_(static_cast<std::size_t>(num_seqs) * static_cast<std::size_t>(1 + config.num_mtp_layers)) {
  Arena measuring(0);
  take(measuring, config, dtype);
  arena_ = std::make_unique<Arena>(std::max<std::size_t>(1, measuring.used_bytes()));
  take(*arena_, config, dtype);
}

void KvCache::take(Arena& arena, const ModelConfig& c, DType dtype) {
  const Widths w = widths_of(c);
  const std::int64_t rows = std::int64_t{num_seqs_} * room_;
  keys_.clear(), values_.clear();
  for (int i = 0; i < c.num_blocks(); ++i) {
    keys_.push_back(arena.padded_matrix(dtype, rows, w.key));
    values_.push_back(c.is_mla() ? keys_.back().slice_cols(0, c.kv_lora_rank) : arena.padded_matrix(dtype, rows, w.value));
  }
}

std::size_t KvCache::index(int seq, int module) const {
  const auto at = static_cast<std::size_t>(module) * static_cast<std::size_t>(num_seqs_) + static_cast<std::size_t>(seq);
  if (seq < 0 || seq >= num_seqs_ || module < 0 || at >= lengths_.size())
    throw std::invalid_argument("kv cache: expected a sequence below " + std::to_string(num_seqs_) + ", found " +
                                std::to_string(seq) + " of module " + std::to_string(module));
  return at;
}

void KvCache::set_length(int seq, int length, int module) {
  if (length < 0 || length > room_)
    throw std::invalid_argument("kv cache: expected a length of at most " + std::to_string(room_) + ", found " +
                                std::to_string(length));
  lengths_[index(seq, module)] = length;
}

std::int64_t KvCache::elements_per_token(const ModelConfig& c) {
  const Widths w = widths_of(c);
  return c.num_layers * (w.key + w.value);
}

CacheStep::CacheStep(KvCache& c, std::span<const CacheRun> all, int m) : cache(&c), module(m), runs(all) {
  for (const CacheRun& run : runs) {
    const int length = cache->length(run.seq, module);
    if (run.count < 1 || run.num_logits > run.count || length + run.count > cache->room())
      throw std::invalid_argument("kv cache: expected 1 to " + std::to_string(cache->room() - length) +
                                  " more tokens of sequence " + std::to_string(run.seq) + ", found " +
                                  std::to_string(run.count));
    for (int i = 0; i < run.count; ++i) {
      first_row_T.push_back(cache->first_row(run.seq));
      num_keys_T.push_back(length + i + 1);
    }
  }
}

bool CacheStep::is_prefill() const {
  return !runs.empty() && std::ranges::all_of(runs, [&](const CacheRun& run) { return is_prefill(run); });
}

void CacheStep::lengthen() const {
  for (const CacheRun& run : runs) cache->set_length(run.seq, cache->length(run.seq, module) + run.count, module);
}

}  // namespace moe
