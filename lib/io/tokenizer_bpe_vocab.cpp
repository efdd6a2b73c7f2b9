// The vocabulary of a tokenizer.json: tokens, merges, added tokens. Not here: what happens to a text before they are
// looked at (tokenizer_bpe_spec.cpp).
#include <array>
#include <set>

#include "lib/io/tokenizer_bpe_json.h"

namespace moe {
namespace {

using nlohmann::json;

std::string shown(const json& value) { return value.dump(-1, ' ', true).substr(0, 80); }

// GPT-2's table: a byte that can be printed is the character of its number; the others follow from U+0100 on.
std::array<int, 324> make_character2byte() {
  std::array<int, 324> map;
  map.fill(-1);
  std::size_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printed = (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    map[printed ? static_cast<std::size_t>(b) : next++] = b;
  }
  return map;
}

class Vocabulary {
 public:
  Vocabulary(const JsonPlace& model, BpeSpec& spec) : model_(model), spec_(spec) {}

  void tokens(const JsonPlace& vocab) {
    token2id_.reserve(vocab.json().size());
    for (const auto& [token, value] : vocab.json().items()) {
      const std::string name = "'" + token.substr(0, 80) + "'";
      if (token.empty()) vocab.refuse("expected tokens of at least one character, found ''");
      if (!value.is_number_unsigned() || value.get<std::uint64_t>() > kMaxBpeId)
        vocab.refuse(name + ": expected an id from 0 to " + std::to_string(kMaxBpeId) + ", found " + shown(value));
      const auto id = value.get<std::int32_t>();
      const auto at = static_cast<std::size_t>(id);
      if (at >= spec_.piece_V.size()) spec_.piece_V.resize(at + 1);
      if (!spec_.piece_V[at].empty())
        vocab.refuse(name + ": expected an id of its own, found " + std::to_string(id) + " a second time");
      // A token with characters that are not in the table (a special one) is not made of bytes and stands for its text.
      const std::string bytes = bytes_of(token);
      if (!bytes.empty()) spec_.piece2id.emplace(bytes, id);
      spec_.piece_V[at] = bytes.empty() ? token : bytes;
      token2id_.emplace(token, id);
    }
    if (token2id_.empty()) vocab.refuse("expected tokens, found none");
  }

  // "a b" or ["a", "b"]; both and what they make together are tokens.
  void merge(const json& value, std::size_t i) {
    const auto refuse = [&](const std::string& what) {
      model_.refuse("merges[" + std::to_string(i) + "]: expected " + what + ", found " + shown(value));
    };
    std::string left, right;
    if (value.is_string()) {
      const auto& text = value.get_ref<const std::string&>();
      const std::size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos)
        refuse("two tokens with a space between");
      left = text.substr(0, space), right = text.substr(space + 1);
    } else if (value.is_array() && value.size() == 2 && value[0].is_string() && value[1].is_string()) {
      left = value[0].get<std::string>(), right = value[1].get<std::string>();
    } else {
      refuse("two tokens");
    }
    const auto a = token2id_.find(left), b = token2id_.find(right), c = token2id_.find(left + right);
    if (a == token2id_.end() || b == token2id_.end()) refuse("two tokens of the vocabulary");
    if (c == token2id_.end()) refuse("tokens that make a token of the vocabulary");
    spec_.merges.push_back({a->second, b->second, c->second});
  }

 private:
  std::string bytes_of(const std::string& token) const {
    std::string bytes;
    for (std::size_t i = 0; i < token.size(); ++i) {
      auto code = static_cast<std::size_t>(static_cast<unsigned char>(token[i]));
      if (code >= 0xE0) return "";  // of three bytes or more
      if (code >= 0x80) code = (code & 0x1F) << 6 | (static_cast<unsigned char>(token[++i]) & 0x3F);
      if (code >= character2byte_.size() || character2byte_[code] < 0) return "";
      bytes += static_cast<char>(character2byte_[code]);
    }
    return bytes;
  }

  const JsonPlace& model_;
  BpeSpec& spec_;
  const std::array<int, 324> character2byte_ = make_character2byte();
  std::unordered_map<std::string, std::int32_t> token2id_;
};

}  // namespace

void parse_bpe_model(const JsonPlace& model, BpeSpec& spec) {
  if (model.has("type") && model.text("type") != "BPE")
    model.refuse("type: expected BPE, found '" + model.text("type") + "'",
                 "models of SentencePiece come with a tokenizer.model: use that");
  model.only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
              "ignore_merges", "vocab", "merges"});
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"})
    model.must_be_off(key);
  spec.ignore_merges = model.flag_or("ignore_merges", false);
  Vocabulary vocabulary(model, spec);
  vocabulary.tokens(model.object("vocab"));
  const json& merges = model.array("merges");
  spec.merges.reserve(merges.size());
  for (std::size_t i = 0; i < merges.size(); ++i) vocabulary.merge(merges[i], i);
}

void parse_bpe_added_tokens(const JsonPlace& root, BpeSpec& spec) {
  std::set<std::string> seen;
  std::set<std::int32_t> ids;
  for (std::size_t i = 0; i < root.array("added_tokens").size(); ++i) {
    const JsonPlace t = root.element(root.at("added_tokens"), i, "added_tokens");
    t.only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    for (const char* key : {"single_word", "lstrip", "rstrip"}) t.must_be_off(key);
    const json& id = t.at("id");
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > kMaxBpeId)
      t.refuse("id: expected a number from 0 to " + std::to_string(kMaxBpeId) + ", found " + shown(id));
    AddedToken token{t.text("content"), id.get<std::int32_t>(), t.flag("special"), t.flag("normalized")};
    if (token.text.empty()) t.refuse("content: expected text, found ''");
    if (!seen.insert(token.text).second) t.refuse("content: '" + token.text.substr(0, 80) + "' is there twice");
    if (!ids.insert(token.id).second) t.refuse("id: " + std::to_string(token.id) + " is there twice");

    const auto at = static_cast<std::size_t>(token.id);
    if (at >= spec.piece_V.size()) spec.piece_V.resize(at + 1);
    const json& vocab = root.at("model").at("vocab");
    const bool ordinary = vocab.contains(token.text);
    if (ordinary ? vocab[token.text] != id : !spec.piece_V[at].empty())
      t.refuse("expected the id that the vocabulary gives '" + token.text.substr(0, 80) + "', found " +
               std::to_string(token.id));
    spec.piece_V[at] = token.text;
    spec.added.push_back(std::move(token));
  }
}

}  // namespace moe
