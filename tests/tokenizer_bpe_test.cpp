// Byte-level BPE of tokenizer.json: the ids of Hugging Face's implementation (golden), a naive BPE on random merges, cuts,
// bytes that are not UTF-8, and files that are refused. Not here: the tool (moe_data_test.sh).
#include "lib/io/tokenizer_bpe.h"

#include <gmock/gmock.h>

#include <map>
#include <nlohmann/json.hpp>

#include "lib/base/error.h"
#include "lib/base/utf8.h"
#include "lib/io/files.h"
#include "lib/io/tokenizer_bpe_nfc.h"
#include "lib/io/tokenizer_bpe_pattern.h"
#include "tests/fuzz_mutate.h"

namespace moe {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

json golden(const std::string& name) {
  return json::parse(read_text_file(std::string(MOE_SOURCE_DIR) + "/tests/golden/bpe/" + name, 1 << 24));
}

class BpeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      make_bpe_tokenizer("bpe:t", base_.dump());
      require_nfc("nfc");
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), Exit::kUnavailable) << e.what();
      GTEST_SKIP() << e.what();
    }
  }
  // The keys replaced; of model, those in it.
  json patched(json patch) const {
    json j = base_;
    if (patch.contains("model")) {
      j["model"].update(patch["model"]);
      patch.erase("model");
    }
    j.update(patch);
    return j;
  }
  std::unique_ptr<Tokenizer> with(const json& patch) const {
    return make_bpe_tokenizer("bpe:t", (patch.empty() ? base_ : patched(patch)).dump());
  }
  // The message of the refusal, "" if there is none.
  static std::string refusal(const std::string& text) {
    try {
      make_bpe_tokenizer("bpe:t", text);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), Exit::kBadInput) << e.what();
      return e.what();
    }
    return "";
  }
  std::string refusal_of(const json& patch) const { return refusal(patched(patch).dump()); }
  const json base_ = golden("tokenizer.json");
  const std::vector<std::string> texts_ = golden("texts.json").get<std::vector<std::string>>();
  const json variants_ = golden("variants.json");
};

TEST_F(BpeTest, SameIdsAsHuggingFace) {
  ASSERT_GE(variants_.size(), 9u);
  for (const json& v : variants_) {
    const auto tokenizer = with(v["patch"]);
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      const Ids ids = tokenizer->encode(texts_[i]);
      EXPECT_EQ(ids, v["ids"][i].get<Ids>()) << v["name"] << ": " << texts_[i];
      EXPECT_EQ(tokenizer->decode(ids), tokenizer->normalized(texts_[i])) << v["name"];
    }
  }
}

std::string nasty(Dice& dice, const std::vector<std::string>& texts, std::size_t bytes) {
  std::string out;
  while (out.size() < bytes) {
    const std::string& t = texts[dice.below(texts.size())];
    const std::size_t at = dice.below(t.size() + 1);
    out += dice.below(3) == 0 ? t.substr(at, 1 + dice.below(20)) : t;
    if (dice.below(8) == 0) out += static_cast<char>(dice.next());
    if (dice.below(30) == 0) out += std::string(dice.below(300), " \n\xE4"[dice.below(3)]);
  }
  return out;
}

TEST_F(BpeTest, AnyBytesComeBackAndCutsChangeNothing) {
  Dice dice(7);
  std::size_t num_cuts = 0;
  for (const json& v : variants_) {
    const auto tokenizer = with(v["patch"]);
    for (int n = 0; n < 12; ++n) {
      const std::string text = nasty(dice, texts_, 3000);
      const Ids whole = tokenizer->encode(text);
      EXPECT_EQ(tokenizer->decode(whole), tokenizer->normalized(text));
      // Only a beginning is known when the places are chosen.
      Ids parts;
      std::size_t at = 0;
      const std::string known = text.substr(0, 1 + dice.below(text.size()));
      for (const std::size_t cut : tokenizer->cuts(known, 1 + dice.below(100))) {
        ASSERT_LT(at, cut);
        ASSERT_LE(cut, known.size());
        const Ids ids = tokenizer->encode(std::string_view(text).substr(at, cut - at));
        parts.insert(parts.end(), ids.begin(), ids.end());
        at = cut, ++num_cuts;
      }
      const Ids rest = tokenizer->encode(std::string_view(text).substr(at));
      parts.insert(parts.end(), rest.begin(), rest.end());
      EXPECT_EQ(parts, whole) << v["name"] << ", text " << n;
    }
  }
  EXPECT_GT(num_cuts, 1000u);
}

// The definition: again and again the pair of lowest rank, the leftmost of equals.
std::vector<std::string> naive(const std::string& word, const std::map<std::pair<std::string, std::string>, int>& rank) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    int best = INT32_MAX;
    std::size_t place = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i)
      if (const auto r = rank.find({parts[i], parts[i + 1]}); r != rank.end() && r->second < best)
        best = r->second, place = i;
    if (best == INT32_MAX) return parts;
    parts[place] += parts[place + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(place) + 1);
  }
}

TEST_F(BpeTest, RandomMergesAsTheDefinitionSays) {
  for (std::uint64_t seed = 0; seed < 30; ++seed) {
    Dice dice(seed);
    json vocab, merges = json::array();
    std::vector<std::string> tokens = {"a", "b", "c"};
    std::map<std::pair<std::string, std::string>, int> rank;
    for (const std::string& t : tokens) vocab[t] = vocab.size();
    for (int m = 0; m < 40; ++m) {
      const std::string left = tokens[dice.below(tokens.size())], right = tokens[dice.below(tokens.size())];
      if (left.size() + right.size() > 12) continue;
      if (!vocab.contains(left + right)) vocab[left + right] = vocab.size(), tokens.push_back(left + right);
      rank[{left, right}] = static_cast<int>(merges.size());  // a pair that is there twice has the later rank
      seed % 2 ? merges.push_back(left + " " + right) : merges.push_back({left, right});
    }
    json j = base_;
    j["added_tokens"] = json::array();
    j["model"]["vocab"] = vocab;
    j["model"]["merges"] = merges;
    const auto tokenizer = make_bpe_tokenizer("bpe:t", j.dump());
    for (int n = 0; n < 60; ++n) {
      std::string word;
      for (std::size_t k = 1 + dice.below(n == 0 ? 400 : 25); k > 0; --k) word += "abc"[dice.below(3)];
      Ids expected;
      for (const std::string& part : naive(word, rank)) expected.push_back(vocab[part].get<std::int32_t>());
      EXPECT_EQ(tokenizer->encode(word), expected) << seed << " " << word;
      EXPECT_EQ(tokenizer->encode(word), expected) << "from the cache";
    }
    EXPECT_THROW(tokenizer->encode("abd"), Error) << "no token for d";
  }
}

TEST_F(BpeTest, RefusedByName) {
  const auto pre = [](const json& p) { return json{{"pre_tokenizer", p}}; };
  const auto regex = [&](const char* r) {
    return refusal_of(pre({{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"}, {"pattern", {{"Regex", r}}}, {"behavior", "Isolated"}, {"invert", false}},
                             base_["pre_tokenizer"]}}}));
  };
  EXPECT_THAT(refusal_of(pre({{"type", "Whitespace"}})), HasSubstr("'Whitespace'"));
  EXPECT_THAT(refusal_of({{"normalizer", {{"type", "NFKC"}}}}), HasSubstr("'NFKC'"));
  EXPECT_THAT(refusal_of({{"normalizer", {{"type", "NFC"}, {"form", 1}}}}), HasSubstr("'form'"));
  EXPECT_THAT(refusal_of({{"model", {{"byte_fallback", true}}}}), HasSubstr("byte_fallback"));
  EXPECT_THAT(refusal_of({{"model", {{"dropout", 0.1}}}}), HasSubstr("dropout"));
  EXPECT_EQ(refusal_of({{"model", {{"dropout", 0.0}}}}), "");
  EXPECT_THAT(refusal_of({{"model", {{"end_of_word_suffix", "</w>"}}}}), HasSubstr("end_of_word_suffix"));
  EXPECT_THAT(refusal_of({{"model", {{"type", "Unigram"}}}}), HasSubstr("'Unigram'"));
  EXPECT_THAT(refusal_of({{"model", {{"surprise", 1}}}}), HasSubstr("'surprise'"));
  EXPECT_THAT(refusal_of({{"decoder", {{"type", "Metaspace"}}}}), HasSubstr("'Metaspace'"));
  EXPECT_THAT(refusal_of({{"post_processor", {{"type", "BertProcessing"}}}}), HasSubstr("'BertProcessing'"));
  EXPECT_THAT(refusal_of({{"truncation", {{"max_length", 5}}}}), HasSubstr("truncation"));
  EXPECT_THAT(refusal_of(pre({{"type", "ByteLevel"}, {"add_prefix_space", true}})), HasSubstr("add_prefix_space"));
  for (const char* r : {"a*", "\\w+", "(?<=a)b", "a{1,2}+", "[[:alpha:]]", "^a", "a.b", "[^a", "(a", "\\p{Greek}", "\\1",
                        "[\\S]", "a{99999}", "[a-\\d]", "\\x{110000}", "\\"})
    EXPECT_THAT(regex(r), HasSubstr("expression")) << r;
  EXPECT_EQ(regex("[a&&[^b]]|\\u00e9|\\x41++(?=\\s)"), "");
}

TEST_F(BpeTest, BadVocabularies) {
  const auto token = [](const json& patch) {
    json t = {{"id", 5000},      {"content", "<x>"},    {"single_word", false}, {"lstrip", false},
              {"rstrip", false}, {"normalized", false}, {"special", true}};
    t.update(patch);
    return json{{"added_tokens", json::array({t})}};
  };
  EXPECT_EQ(refusal_of(token(json::object())), "");
  for (const json& patch : {json{{"id", -1}},
                            {{"id", 1e30}},
                            {{"id", 1u << 31}},
                            {{"id", "7"}},
                            {{"content", ""}},
                            {{"lstrip", true}},
                            {{"special", 1}},
                            {{"id", 3}},
                            {{"content", "a"}},
                            {{"new", 1}}})
    EXPECT_NE(refusal_of(token(patch)), "") << patch;
  EXPECT_THAT(refusal_of({{"added_tokens", json::array({base_["added_tokens"][0], base_["added_tokens"][0]})}}),
              HasSubstr("twice"));
  for (const json& id : {json(-1), json(1e10), json(std::uint64_t{1} << 63), json(1.5), json(5), json(nullptr), json("5")}) {
    json j = base_;
    j["model"]["vocab"]["zzzz"] = id;
    EXPECT_THAT(refusal(j.dump()), HasSubstr("zzzz")) << id;
  }
  for (const json& merge : {json("a"), json("a b c"), json("a zqzq"), json("z q"), json({"a"}), json({"a", 1}), json(5)}) {
    json j = base_;
    j["model"]["merges"].push_back(merge);
    EXPECT_THAT(refusal(j.dump()), HasSubstr("merges[")) << merge;
  }
}

TEST_F(BpeTest, SpecialTokensAndTemplates) {
  const json single = {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}};
  const json processor = {{"type", "TemplateProcessing"},
                          {"single", single},
                          {"pair", json::array()},
                          {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {0}}, {"tokens", {"<|endoftext|>"}}}}}}};
  const auto tokenizer = with({{"post_processor", processor}});
  EXPECT_EQ(tokenizer->begin_ids(), Ids{0});
  EXPECT_TRUE(tokenizer->end_ids().empty());
  EXPECT_EQ(tokenizer->encode("<|endoftext|>a").size(), 2u) << "none is added";
  EXPECT_EQ(tokenizer->decode(Ids{0}), "<|endoftext|>");
  EXPECT_EQ(tokenizer->added_tokens().size(), base_["added_tokens"].size());
  json bad = processor;
  bad["special_tokens"]["<s>"]["ids"] = {1 << 20};
  EXPECT_THAT(refusal_of({{"post_processor", bad}}), HasSubstr("ids"));
}

TEST_F(BpeTest, HalfACharacterAndUnknownIds) {
  const auto tokenizer = with(json::object());
  const Ids ids = tokenizer->encode("\xF0\x9F\x98");  // an emoji that is cut
  EXPECT_EQ(tokenizer->decode(ids), "\xF0\x9F\x98");
  EXPECT_EQ(mended_utf8("a" + tokenizer->decode(ids)), "a\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(tokenizer->decode(Ids{-1, 1 << 30}), "\uFFFD\uFFFD");
  EXPECT_EQ(mended_utf8("\xC0\x80\xED\xA0\x80ok\xC3"), "\uFFFD\uFFFD\uFFFD\uFFFD\uFFFDok\uFFFD");
}

TEST_F(BpeTest, LongWordsTakeNoQuadraticTime) {
  const auto tokenizer = with(json::object());
  for (const char* unit : {"a", " ", "\n", "\xE4", "the"}) {
    std::string text;
    for (int i = 0; i < 100000; ++i) text += unit;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

TEST_F(BpeTest, DamagedFilesAreReadOrRefused) {
  const std::string text = base_.dump();
  int refused = 0;
  for (std::size_t n = 0; n < 20; ++n) refused += refusal(text.substr(0, n * text.size() / 20)) != "";
  EXPECT_EQ(refused, 20);
  for (std::uint64_t n = 0; n < 250; ++n) {
    Dice dice(n);
    refused += refusal(mutated(text, dice, R"("id":-1,"type":"Split","merges":[["a","b"]],{"Regex":"(?<!a)\\w"})")) != "";
  }
  EXPECT_GT(refused, 150);
}

}  // namespace
}  // namespace moe
