#include "lib/io/tokenizer_bpe_spec.h"

#include <cctype>

#include "lib/io/manifest.h"
#include "lib/io/tokenizer_bpe_json.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr const char* kGpt2Pattern = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

class Parser {
 public:
  Parser(const json& root, const std::string& path) : root_(root, path) {}

  BpeSpec parse() {
    root_.only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                "decoder", "model"});
    if (!root_.has("model")) root_.refuse("expected the key 'model', found none", "is this a tokenizer.json?");
    root_.must_be_off("truncation");
    root_.must_be_off("padding");
    if (root_.has("normalizer")) normalizer(root_.object("normalizer"));
    if (!root_.has("pre_tokenizer"))
      root_.refuse("pre_tokenizer: expected one with ByteLevel, found none", kSentencePieceHint);
    pre_tokenizer(root_.object("pre_tokenizer"));
    if (!byte_level_) root_.refuse("pre_tokenizer: expected ByteLevel, found none", kSentencePieceHint);
    parse_bpe_model(root_.object("model"), spec_);
    if (root_.has("added_tokens")) parse_bpe_added_tokens(root_, spec_);
    if (root_.has("post_processor")) post_processor(root_.object("post_processor"));
    if (!root_.has("decoder")) root_.refuse("decoder: expected ByteLevel, found none");
    decoder(root_.object("decoder"));
    return std::move(spec_);
  }

 private:
  static constexpr const char* kSentencePieceHint = "models of SentencePiece come with a tokenizer.model: use that";

  void normalizer(const JsonPlace& n) {
    const std::string type = n.text("type");
    if (type == "NFC") {
      n.only({"type"});
      spec_.nfc = true;
    } else if (type == "Sequence") {
      n.only({"type", "normalizers"});
      for (std::size_t i = 0; i < n.array("normalizers").size(); ++i)
        normalizer(n.element(n.at("normalizers"), i, "normalizers"));
    } else {
      n.refuse("expected NFC or none, found '" + type + "'", kSentencePieceHint);
    }
  }

  void pre_tokenizer(const JsonPlace& p) {
    const std::string type = p.text("type");
    if (byte_level_) p.refuse("expected ByteLevel to be the last, found '" + type + "' after it");
    if (type == "Sequence") {
      p.only({"type", "pretokenizers"});
      for (std::size_t i = 0; i < p.array("pretokenizers").size(); ++i)
        pre_tokenizer(p.element(p.at("pretokenizers"), i, "pretokenizers"));
    } else if (type == "Split") {
      split(p);
    } else if (type == "Digits") {
      p.only({"type", "individual_digits"});
      spec_.patterns.emplace_back(p.flag("individual_digits") ? "\\p{N}" : "\\p{N}+");
    } else if (type == "ByteLevel") {
      p.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
      if (p.flag("add_prefix_space")) p.refuse("add_prefix_space: expected false, found true", "this is not supported");
      if (p.flag_or("use_regex", true)) spec_.patterns.emplace_back(kGpt2Pattern);
      byte_level_ = true;
    } else {
      p.refuse("expected Split, Digits, ByteLevel or Sequence, found '" + type + "'", kSentencePieceHint);
    }
  }

  void split(const JsonPlace& p) {
    p.only({"type", "pattern", "behavior", "invert"});
    if (const std::string b = p.text("behavior"); b != "Isolated")
      p.refuse("behavior: expected Isolated, found '" + b + "'", "this is not supported");
    if (p.flag("invert")) p.refuse("invert: expected false, found true", "this is not supported");
    const JsonPlace pattern = p.object("pattern");
    pattern.only({"Regex", "String"});
    if (pattern.json().size() != 1) pattern.refuse("expected either Regex or String");
    if (pattern.has("Regex")) return spec_.patterns.push_back(pattern.text("Regex"));
    std::string literal;
    for (const char c : pattern.text("String")) {
      const bool plain = static_cast<unsigned char>(c) >= 0x80 || std::isalnum(static_cast<unsigned char>(c)) || c == ' ';
      literal += plain || c == '\n' || c == '\r' || c == '\t' ? std::string(1, c) : std::string("\\") + c;
    }
    spec_.patterns.push_back(literal);
  }

  // Tokens that go around a text are noted, not added: `single` is a list of tokens with the text somewhere between them.
  void post_processor(const JsonPlace& p) {
    const std::string type = p.text("type");
    if (type == "ByteLevel") return p.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});  // is about offsets
    if (type == "Sequence") {
      p.only({"type", "processors"});
      for (std::size_t i = 0; i < p.array("processors").size(); ++i)
        post_processor(p.element(p.at("processors"), i, "processors"));
    } else if (type == "TemplateProcessing") {
      p.only({"type", "single", "pair", "special_tokens"});
      for (std::size_t i = 0, texts = 0; i < p.array("single").size(); ++i)
        template_part(p.element(p.at("single"), i, "single"), p.object("special_tokens"), texts);
    } else {
      p.refuse("expected ByteLevel, TemplateProcessing or Sequence, found '" + type + "'");
    }
  }

  void template_part(const JsonPlace& part, const JsonPlace& tokens, std::size_t& texts) {
    part.only({"Sequence", "SpecialToken"});
    if (part.has("Sequence")) {
      if (++texts > 1) part.refuse("expected one text, found two");
      return;
    }
    const std::string name = part.object("SpecialToken").text("id");
    const JsonPlace token = tokens.object(name.c_str());
    for (const json& id : token.array("ids")) {
      if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= spec_.piece_V.size())
        token.refuse("ids: expected ids of the vocabulary, found " + id.dump(-1, ' ', true).substr(0, 80));
      (texts == 0 ? spec_.begin_ids : spec_.end_ids).push_back(id.get<std::int32_t>());
    }
  }

  void decoder(const JsonPlace& d) {
    const std::string type = d.text("type");
    if (type == "ByteLevel") return d.only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (type != "Sequence") d.refuse("expected ByteLevel, found '" + type + "'");
    d.only({"type", "decoders"});
    if (d.array("decoders").size() != 1) d.refuse("expected ByteLevel alone, found a longer list");
    decoder(d.element(d.at("decoders"), 0, "decoders"));
  }

  JsonPlace root_;
  BpeSpec spec_;
  bool byte_level_ = false;
};

}  // namespace

BpeSpec parse_bpe(const std::string& json, const std::string& path) {
  const nlohmann::json root = parse_strict_json(json, path);
  return Parser(root, path).parse();
}

}  // namespace moe
