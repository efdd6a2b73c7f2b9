// Token files (man/moe-files.5): one array of token ids, the start of each document, the vocabulary they belong to.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/io/tokenizer.h"

namespace moe {

struct TokenFileInfo {
  std::string path;
  std::int64_t num_tokens = 0;
  std::int64_t num_documents = 0;
  int vocab_size = 0;           // every id is in [0, vocab_size)
  std::string tokenizer;        // "bytes", "sentencepiece:NAME", "bpe:NAME" or "unknown"
  std::string tokenizer_model;  // serialized SentencePiece model or tokenizer.json, empty for bytes
  std::int64_t num_bytes = 0;   // bytes of text that the tokens stand for; 0 = unknown
  std::string fingerprint;      // XXH3-128 of the token ids and document starts, hex
};

// Tokens for training, from an HDF5 token file or, read as bytes, from any plain text file.
class TokenSource {
 public:
  // Throws Error: 66 not there, 65 not a token file / truncated / incomplete / an id beyond its vocabulary / empty.
  // A file with the HDF5 signature is a token file; anything else is text (bytes, vocabulary 256).
  static TokenSource open(const std::string& path);
  TokenSource(TokenSource&&) noexcept;
  ~TokenSource();

  const TokenFileInfo& info() const;
  // id_T[i] = token begin + i; begin + id_T.size() <= num_tokens.
  void read(std::int64_t begin, std::span<std::int32_t> id_T) const;
  // First token of each document, ascending, the first is 0; plus num_tokens at the end.
  std::span<const std::int64_t> document_offsets() const;

 private:
  struct Impl;
  explicit TokenSource(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
