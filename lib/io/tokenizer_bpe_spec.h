// What a Hugging Face tokenizer.json says, as far as it is a byte-level BPE. Whatever this does not know is refused by
// name: an approximation would give ids that a model was never trained on. Not here: encoding (tokenizer_bpe.cpp).
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "lib/io/tokenizer.h"

namespace moe {

inline constexpr std::int32_t kMaxBpeId = (1 << 22) - 1;

struct BpeSpec {
  struct Merge {
    std::int32_t left, right, result;
  };
  std::vector<std::string> piece_V;                        // the bytes of each id; "" where there is none
  std::unordered_map<std::string, std::int32_t> piece2id;  // of the ordinary tokens
  std::vector<Merge> merges;                               // the first is done first
  bool ignore_merges = false;                              // a word that is a token is that token
  bool nfc = false;
  std::vector<std::string> patterns;  // Oniguruma; each cuts what the one before left, matches and gaps alike
  std::vector<AddedToken> added;
  std::vector<std::int32_t> begin_ids, end_ids;  // what the post-processor would add
};

// Error 65: not such a file, or one that asks for what is not here.
BpeSpec parse_bpe(const std::string& json, const std::string& path);

}  // namespace moe
