// Text <-> ids, for encoding files, prompts and samples: bytes, SentencePiece models, byte-level BPE of a tokenizer.json.
// Not here: training a tokenizer; the files of ids (tokens.h).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace moe {

// A token that stands for itself wherever its text occurs, before anything else is looked at.
struct AddedToken {
  std::string text;
  std::int32_t id = 0;
  bool special = false;     // controls the model, is no text
  bool normalized = false;  // is looked for in the normalized text
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int vocab_size() const = 0;  // every id is below; ids of a BPE may have gaps
  virtual std::string name() const = 0;
  virtual std::string serialized() const = 0;  // what a token file or checkpoint keeps; empty for bytes
  // Any bytes; no begin or end tokens are added. May be called from several threads at once, as may all that is const.
  virtual std::vector<std::int32_t> encode(std::string_view text) const = 0;
  // The bytes that the ids stand for: half a character, where a sample ends in one (lib/base/utf8.h mends). An id that
  // stands for nothing becomes U+FFFD.
  virtual std::string decode(std::span<const std::int32_t> ids) const = 0;

  // Places, ascending, about `stride` bytes apart, at which `text`, the beginning of a document, may be cut, so that its
  // parts are encoded one by one; the last part goes on with the text that follows. None if more text is needed. BPE: the
  // ids are those of the whole document, whatever follows. SentencePiece: at the end of a line.
  virtual std::vector<std::size_t> cuts(std::string_view text, std::size_t stride) const;
  // What decode(encode(text)) gives back.
  virtual std::string normalized(std::string_view text) const { return std::string(text); }
  virtual std::vector<AddedToken> added_tokens() const { return {}; }
  // What the model's own post-processor puts before and after a text.
  virtual std::vector<std::int32_t> begin_ids() const { return {}; }
  virtual std::vector<std::int32_t> end_ids() const { return {}; }
};

// "bytes", "bpe:FILE", or the path of a tokenizer.json or a SentencePiece model (69 if built without libpcre2 or
// libsentencepiece).
std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path);
// From what a token file or a checkpoint keeps. Tokenizer "unknown": nullptr.
std::unique_ptr<Tokenizer> restore_tokenizer(const std::string& name, const std::string& serialized);

}  // namespace moe
