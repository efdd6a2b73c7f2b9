#include "lib/io/tokenizer_bpe_merge.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lib/base/error.h"
#include "lib/io/digest.h"

namespace moe {
namespace {

std::uint64_t pair_key(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint64_t>(right);
}

}  // namespace

BpeMerger::BpeMerger(const BpeSpec& spec) : table_(std::bit_ceil(2 * spec.merges.size() + 2)) {
  shift_ = 64 - std::countr_zero(table_.size());
  byte2id_.fill(-1);
  for (int b = 0; b < 256; ++b)
    if (const auto id = spec.piece2id.find(std::string(1, static_cast<char>(b))); id != spec.piece2id.end())
      byte2id_[static_cast<std::size_t>(b)] = id->second;
  for (std::size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const BpeSpec::Merge& m = spec.merges[rank];
    insert({pair_key(m.left, m.right), static_cast<std::uint32_t>(rank), m.result});
  }
  if (spec.ignore_merges) whole_words_ = &spec.piece2id;
}

// Fibonacci hashing; at most half of the table is used. A pair that is there twice has the later rank.
void BpeMerger::insert(const Entry& entry) {
  std::size_t i = entry.key * 0x9e3779b97f4a7c15u >> shift_;
  while (table_[i].key != kFree && table_[i].key != entry.key) i = (i + 1) & (table_.size() - 1);
  table_[i] = entry;
}

const BpeMerger::Entry* BpeMerger::find(std::int32_t left, std::int32_t right) const {
  const std::uint64_t key = pair_key(left, right);
  for (std::size_t i = key * 0x9e3779b97f4a7c15u >> shift_;; i = (i + 1) & (table_.size() - 1)) {
    if (table_[i].key == key) return &table_[i];
    if (table_[i].key == kFree) return nullptr;
  }
}

// The part and the one after it, if they merge.
void BpeMerger::push_pair(Scratch& s, std::int32_t part) const {
  const std::int32_t after = s.parts_[static_cast<std::size_t>(part)].after;
  if (after < 0) return;
  const std::int32_t left = s.parts_[static_cast<std::size_t>(part)].id,
                     right = s.parts_[static_cast<std::size_t>(after)].id;
  const Entry* e = find(left, right);
  if (!e) return;
  s.heap_.push_back({static_cast<std::uint64_t>(e->rank) << 32 | static_cast<std::uint32_t>(part), left, right, e->result});
  std::push_heap(s.heap_.begin(), s.heap_.end(), [](const auto& a, const auto& b) { return a.rank_place > b.rank_place; });
}

void BpeMerger::merge(std::string_view word, Scratch& s, std::vector<std::int32_t>& ids) const {
  if (word.size() > INT32_MAX) throw Error(Exit::kBadInput, "expected words below 2 GiB, found a longer one");
  const auto n = static_cast<std::int32_t>(word.size());
  s.parts_.clear();
  s.heap_.clear();
  for (std::int32_t i = 0; i < n; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    if (byte2id_[byte] < 0)
      throw Error(Exit::kBadInput, "tokenizer: expected a token for each byte, found none for byte " + std::to_string(byte));
    s.parts_.push_back({byte2id_[byte], i - 1, i + 1 < n ? i + 1 : -1});
  }
  for (std::int32_t i = 0; i + 1 < n; ++i) push_pair(s, i);

  while (!s.heap_.empty()) {
    std::pop_heap(s.heap_.begin(), s.heap_.end(), [](const auto& a, const auto& b) { return a.rank_place > b.rank_place; });
    const Scratch::Pair pair = s.heap_.back();
    s.heap_.pop_back();
    const auto place = static_cast<std::int32_t>(pair.rank_place & 0xFFFFFFFF);
    Scratch::Part& left = s.parts_[static_cast<std::size_t>(place)];
    if (left.id != pair.left || left.after < 0) continue;  // one of the two has been merged since
    Scratch::Part& right = s.parts_[static_cast<std::size_t>(left.after)];
    if (right.id != pair.right) continue;
    left.id = pair.result;
    left.after = right.after;
    right.id = -1;
    if (left.after >= 0) s.parts_[static_cast<std::size_t>(left.after)].before = place;
    push_pair(s, place);
    if (left.before >= 0) push_pair(s, left.before);
  }
  for (std::int32_t i = 0; i >= 0; i = s.parts_[static_cast<std::size_t>(i)].after)
    ids.push_back(s.parts_[static_cast<std::size_t>(i)].id);
}

void BpeMerger::encode(std::string_view word, Scratch& s, std::vector<std::int32_t>& ids) const {
  Scratch::Slot* slot = nullptr;
  if (word.size() <= std::tuple_size_v<decltype(slot->bytes)>) {
    slot = &s.cache_[xxh3(word).low & (Scratch::kCacheSlots - 1)];
    if (slot->num_bytes == word.size() && std::memcmp(slot->bytes.data(), word.data(), word.size()) == 0) {
      ids.insert(ids.end(), slot->ids.begin(), slot->ids.begin() + slot->num_ids);
      return;
    }
  }
  const std::size_t begin = ids.size();
  const auto whole = whole_words_ ? whole_words_->find(std::string(word)) : decltype(whole_words_->end()){};
  if (whole_words_ && whole != whole_words_->end())
    ids.push_back(whole->second);
  else
    merge(word, s, ids);

  const std::size_t n = ids.size() - begin;
  if (!slot || n > slot->ids.size()) return;
  slot->num_bytes = static_cast<std::uint8_t>(word.size());
  slot->num_ids = static_cast<std::uint8_t>(n);
  std::copy(word.begin(), word.end(), slot->bytes.begin());
  std::copy(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end(), slot->ids.begin());
}

}  // namespace moe
