// Tokenizers by name: bytes, SentencePiece models where the build has libsentencepiece. Not here: BPE (tokenizer_bpe.cpp).
#include "lib/io/tokenizer.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/files.h"
#include "lib/io/tokenizer_bpe.h"
#ifdef MOE_HAVE_SENTENCEPIECE
#include <sentencepiece_processor.h>
#endif

namespace moe {
namespace {

constexpr const char *kSentencePiece = "sentencepiece:", *kBpe = "bpe:";
constexpr std::int64_t kModelLimitBytes = std::int64_t{1} << 28;

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
  std::vector<std::size_t> cuts(std::string_view text, std::size_t) const override { return {text.size()}; }
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

// The end of the last line; a text of more than 1 MiB without one is cut before its last character.
std::vector<std::size_t> Tokenizer::cuts(std::string_view text, std::size_t) const {
  std::size_t end = text.rfind('\n') + 1;  // npos + 1 is 0
  if (end == 0 && text.size() > (1 << 20))
    for (end = text.size() - 1; end > 1 && (text[end] & 0xC0) == 0x80;) --end;
  return end == 0 ? std::vector<std::size_t>() : std::vector<std::size_t>{end};
}

std::unique_ptr<Tokenizer> make_tokenizer(const std::string& name_or_path) {
  if (name_or_path == "bytes") return std::make_unique<ByteTokenizer>();
  const bool named = name_or_path.starts_with(kBpe);
  const std::string path = named ? name_or_path.substr(std::string_view(kBpe).size()) : name_or_path;
  if (!path_exists(path))
    throw Error(Exit::kNoInput,
                path + ": expected 'bytes' or the path of a tokenizer.json or a SentencePiece model, found no such file");
  const std::string model = read_text_file(path, kModelLimitBytes);
  // No model of SentencePiece (a serialized message) begins like an object of JSON.
  const std::size_t first = model.find_first_not_of(" \t\r\n");
  const bool is_json = first != std::string::npos && model[first] == '{';
  return named || is_json ? make_bpe_tokenizer(kBpe + base_name(path), model)
                          : sentencepiece(kSentencePiece + base_name(path), model);
}

std::unique_ptr<Tokenizer> restore_tokenizer(const std::string& name, const std::string& serialized) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  if (name == "unknown") return nullptr;
  if (name.starts_with(kSentencePiece)) return sentencepiece(name, serialized);
  if (name.starts_with(kBpe)) return make_bpe_tokenizer(name, serialized);
  throw Error(Exit::kBadInput, "tokenizer: expected bytes, sentencepiece:NAME, bpe:NAME or unknown, found '" + name + "'");
}

}  // namespace moe
