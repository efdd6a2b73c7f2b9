// Byte-pair encoding of one word: neighbours are merged, the pair of lowest rank first, the leftmost of equal ones. Not
// here: what a word is (tokenizer_bpe.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <vector>

#include "lib/io/tokenizer_bpe_spec.h"

namespace moe {

class BpeMerger {
 public:
  // What one thread needs: lists for one word, and the ids of short words met before, each in the one place its hash gives.
  class Scratch {
   public:
    Scratch() : cache_(kCacheSlots) {}

   private:
    friend class BpeMerger;
    static constexpr std::size_t kCacheSlots = std::size_t{1} << 15;
    struct Slot {
      std::uint8_t num_bytes = 0, num_ids = 0;
      std::array<char, 30> bytes;
      std::array<std::int32_t, 8> ids;
    };
    struct Part {
      std::int32_t id;
      std::int32_t before, after;  // parts beside it; -1 = none
    };
    struct Pair {
      std::uint64_t rank_place;  // rank << 32 | part: what comes first is done first
      std::int32_t left, right, result;
    };
    std::vector<Slot> cache_;
    std::vector<Part> parts_;
    std::vector<Pair> heap_;
  };

  explicit BpeMerger(const BpeSpec& spec);
  // Appends the ids of `word`, not empty. Error 65 for a byte that is no token.
  void encode(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;

 private:
  // The pairs, in a table with open addressing.
  struct Entry {
    std::uint64_t key = kFree;  // left << 32 | right
    std::uint32_t rank = 0;
    std::int32_t result = 0;
  };
  static constexpr std::uint64_t kFree = ~std::uint64_t{0};
  const Entry* find(std::int32_t left, std::int32_t right) const;
  void insert(const Entry& entry);
  void push_pair(Scratch& scratch, std::int32_t part) const;
  void merge(std::string_view word, Scratch& scratch, std::vector<std::int32_t>& ids) const;

  std::vector<Entry> table_;
  int shift_ = 0;
  std::array<std::int32_t, 256> byte2id_;
  const std::unordered_map<std::string, std::int32_t>* whole_words_ = nullptr;  // where merges are ignored
};

}  // namespace moe
