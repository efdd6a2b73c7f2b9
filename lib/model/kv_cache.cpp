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

KvCache::KvCache(const ModelConfig& config, DType dtype, int num_seqs, int room, const Device& device)
    : num_seqs_(num_seqs),
      room_(room),
      lengths_(static_cast<std::size_t>(num_seqs) * static_cast<std::size_t>(1 + config.num_mtp_layers)) {
  Arena measuring(0, device);
  take(measuring, config, dtype);
  arena_ = std::make_unique<Arena>(std::max<std::size_t>(1, measuring.used_bytes()), device);
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

CacheRows take_cache_rows(Arena& arena, std::int64_t most_tokens, std::int64_t most_logits) {
  CacheRows rows;
  rows.first_row_T = arena.vector<std::int64_t>(most_tokens);
  rows.row_T = arena.vector<std::int64_t>(most_tokens);
  rows.num_keys_T = arena.vector<std::int32_t>(most_tokens);
  rows.logits_row_N = arena.vector<std::int64_t>(most_logits);
  return rows;
}

namespace {

template <class T>
std::span<T> put_into_room(Stream& stream, const std::vector<T>& list, std::span<T> room, const char* what) {
  if (list.size() > room.size())
    throw std::invalid_argument("kv cache: expected at most " + std::to_string(room.size()) + " " + what + ", found " +
                                std::to_string(list.size()));
  stream.copy(room.data(), list.data(), list.size() * sizeof(T));
  return room.first(list.size());
}

}  // namespace

CacheStep::CacheStep(KvCache& c, std::span<const CacheRun> all, int m, const CacheRows& room, Stream& stream)
    : cache(&c), module(m), runs(all) {
  std::vector<std::int64_t> first_row_T, row_T, logits_row_N;
  std::vector<std::int32_t> num_keys_T;
  for (const CacheRun& run : runs) {
    const int length = cache->length(run.seq, module);
    if (run.count < 1 || run.num_logits > run.count || length + run.count > cache->room())
      throw std::invalid_argument("kv cache: expected 1 to " + std::to_string(cache->room() - length) +
                                  " more tokens of sequence " + std::to_string(run.seq) + ", found " +
                                  std::to_string(run.count));
    for (int i = 0; i < run.count; ++i) {
      if (i >= run.count - run.num_logits) logits_row_N.push_back(num_tokens());
      first_row_T.push_back(cache->first_row(run.seq));
      row_T.push_back(first_row_T.back() + length + i);
      num_keys_T.push_back(length + i + 1);
      pos_T.push_back(length + i);
    }
  }
  rows.first_row_T = put_into_room(stream, first_row_T, room.first_row_T, "tokens");
  rows.row_T = put_into_room(stream, row_T, room.row_T, "tokens");
  rows.num_keys_T = put_into_room(stream, num_keys_T, room.num_keys_T, "tokens");
  rows.logits_row_N = put_into_room(stream, logits_row_N, room.logits_row_N, "rows of logits");
}

bool CacheStep::is_prefill() const {
  return !runs.empty() && std::ranges::all_of(runs, [&](const CacheRun& run) { return is_prefill(run); });
}

void CacheStep::lengthen() const {
  for (const CacheRun& run : runs) cache->set_length(run.seq, cache->length(run.seq, module) + run.count, module);
}

}  // namespace moe
