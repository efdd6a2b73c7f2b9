// Tokenizers: bytes, and SentencePiece models where the build has libsentencepiece. Not here: training a tokenizer.
#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/files.h"
#include "lib/io/tokens.h"
#ifdef MOE_HAVE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace moe {
namespace {

constexpr const char* kSentencePiece = "sentencepiece:";

// A token is a byte. Ids of a larger vocabulary decode to U+FFFD.
class ByteTokenizer : public Tokenizer {
 public:
  int vocab_size() const override { return 256; }
  std::string name() const override { return "bytes"; }
  std::string serialized() const override { return ""; }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<std::int32_t> ids(text.size());
    std::transform(text.begin(), text.end(), ids.begin(), [](char c) { return static_cast<unsigned char>(c); });
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) id >= 0 && id < 256 ? text += static_cast<char>(id) : text += "\xEF\xBF\xBD";
    return text;
  }
};

#ifdef MOE_HAVE_SENTENCEPIECE
// What the model's own normaliser makes of the text; no begin or end tokens are added.
class SentencePieceTokenizer : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string name, std::string model) : name_(std::move(name)), model_(std::move(model)) {
    if (const auto status = processor_.LoadFromSerializedProto(model_); !status.ok())
      throw Error(Exit::kBadInput, name_ + ": expected a SentencePiece model, found something else: " + status.ToString());
  }
  int vocab_size() const override { return processor_.GetPieceSize(); }
  std::string name() const override { return name_; }
  std::string serialized() const override { return model_; }
  std::vector<std::int32_t> encode(std::string_view text) const override {
    std::vector<int> ids;
    if (const auto status = processor_.Encode({text.data(), text.size()}, &ids); !status.ok())
      throw Error(Exit::kBadInput, name_ + ": cannot encode: " + status.ToString());
    return ids;
  }
  std::string decode(std::span<const std::int32_t> ids) const override {
    std::vector<int> known(ids.begin(), ids.end());
    std::erase_if(known, [&](int id) { return id < 0 || id >= vocab_size(); });
    std::string text;
    if (const auto status = processor_.Decode(known, &text); !status.ok())
      throw Error(Exit::kBadInput, name_ + ": cannot decode: " + status.ToString());
    return text;
  }

 private:
  std::string name_, model_;
  sentencepiece::SentencePieceProcessor processor_;
};
#endif

std::unique_ptr<Tokenizer> sentencepiece(const std::string& name, const std::string& model) {
#ifdef MOE_HAVE_SENTENCEPIECE
  return std::make_unique<SentencePieceTokenizer>(name, model);
#else
  (void)model;
  throw Error(Exit::kUnavailable, name + ": expected a build with libsentencepiece, found one without",
              "install libsentencepiece-dev and build again, or use --tokenizer bytes");
#endif
}

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "bytes") return std::make_unique<ByteTokenizer>();
  if (!path_exists(name_or_path))
    throw Error(Exit::kNoInput,
                name_or_path + ": expected 'bytes' or the path of a SentencePiece model, found no such file");
  return sentencepiece(kSentencePiece + base_name(name_or_path), read_text_file(name_or_path, std::int64_t{1} << 28));
}

std::unique_ptr<Tokenizer> restore_tokenizer(const std::string& name, const std::string& serialized) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  if (name == "unknown") return nullptr;
  if (name.starts_with(kSentencePiece)) return sentencepiece(name, serialized);
  throw Error(Exit::kBadInput, "tokenizer: expected bytes, sentencepiece:NAME or unknown, found '" + name + "'");
}

}  // namespace moe
