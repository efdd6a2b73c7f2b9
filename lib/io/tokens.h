// Token files (man/moe-files.5): one array of token ids, the start of each document, the vocabulary they belong to.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace moe {

struct TokenFileInfo {
  std::string path;
  std::int64_t num_tokens = 0;
  std::int64_t num_documents = 0;
  int vocab_size = 0;           // every id is in [0, vocab_size)
  std::string tokenizer;        // "bytes", "sentencepiece:NAME" or "unknown"
  std::string tokenizer_model;  // serialized SentencePiece model, empty for bytes
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

// Text <-> ids, for encoding files, prompts and samples.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int vocab_size() const = 0;
  virtual std::string name() const = 0;
  virtual std::string serialized() const = 0;  // what a token file or checkpoint keeps; empty for bytes
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;
};
// "bytes", or the path of a SentencePiece model (69 if built without libsentencepiece).
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path);
// From what a token file or a checkpoint keeps. Tokenizer "unknown": nullptr.
std::unique_ptr<Tokenizer> restore_tokenizer(const std::string& name, const std::string& serialized);

}  // namespace moe
