// Token files: what is written is read, both widths and as text; splits; every kind of damage; foreign formats.
#include "lib/io/tokens.h"

#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "lib/base/error.h"
#include "lib/io/import_tokens.h"
#include "lib/io/token_writer.h"

namespace moe {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Ids = std::vector<std::int32_t>;

class TokensTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moe-tokens-XXXXXX").string();
    dir_ = ::mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(dir_); }
  std::string at(const std::string& name) const { return dir_ + "/" + name; }
  std::string file(const std::string& name, const std::string& bytes) const {
    std::ofstream(at(name), std::ios::binary) << bytes;
    return at(name);
  }
  std::string write(const std::string& name, const std::vector<Ids>& documents, int vocab,
                    const std::string& tokenizer = "unknown") const {
    TokenWriter w(dir_, vocab, tokenizer, "");
    for (const Ids& d : documents) {
      w.begin_document();
      w.add(d, tokenizer == "bytes" ? static_cast<std::int64_t>(d.size()) : 0);
    }
    PendingFile out(at(name), false);
    w.write(out, 0, w.num_tokens(), nlohmann::json::array());
    out.commit();
    return at(name);
  }
  std::string dir_;
};

template <class... T>
std::string packed(T... values) {
  std::string s;
  (s.append(reinterpret_cast<const char*>(&values), sizeof values), ...);
  return s;
}

Ids all_of(const TokenSource& s) {
  Ids ids(static_cast<std::size_t>(s.info().num_tokens));
  s.read(0, ids);
  return ids;
}

template <class Action>
Exit code_of(Action action, std::string* message = nullptr) {
  try {
    action();
    return Exit::kOk;
  } catch (const Error& e) {
    if (message) *message = e.what();
    return e.code();
  }
}

TEST_F(TokensTest, RoundTripInBothWidths) {
  for (const int vocab : {7, 65536, 65537, 200000}) {
    const std::vector<Ids> documents = {{0, vocab - 1, 3}, {}, {5}, {1, 2, vocab - 1, 4, 6, 0, 0}};
    const TokenSource s = TokenSource::open(write("t" + std::to_string(vocab), documents, vocab));
    EXPECT_EQ(all_of(s), (Ids{0, vocab - 1, 3, 5, 1, 2, vocab - 1, 4, 6, 0, 0}));
    EXPECT_THAT(s.document_offsets(), ::testing::ElementsAre(0, 3, 4, 11)) << "the empty document is left out";
    EXPECT_EQ(s.info().vocab_size, vocab);
    Ids two(2);
    s.read(9, two);
    EXPECT_EQ(two, (Ids{0, 0}));
    EXPECT_EQ(code_of([&] { s.read(10, two); }), Exit::kInternal);
    EXPECT_EQ(restore_tokenizer(s.info().tokenizer, ""), nullptr);
  }
}

TEST_F(TokensTest, TextIsBytesWithTheSameFingerprint) {
  const std::string text = "h\xc3\xa9llo\n";
  const TokenSource s = TokenSource::open(file("a.txt", text));
  const Ids ids = make_tokenizer("bytes")->encode(text);
  EXPECT_EQ(all_of(s), ids);
  EXPECT_EQ(s.info().vocab_size, 256);
  EXPECT_EQ(make_tokenizer("bytes")->decode(ids), text);
  const TokenSource h5 = TokenSource::open(write("a.h5", {ids}, 256, "bytes"));
  EXPECT_EQ(h5.info().fingerprint, s.info().fingerprint);
  EXPECT_EQ(h5.info().num_bytes, 7);
}

TEST_F(TokensTest, SplitKeepsDocumentsAndBytes) {
  TokenWriter w(dir_, 256, "bytes", "");
  for (const int n : {3, 4, 3}) {
    w.begin_document();
    w.add(Ids(static_cast<std::size_t>(n), n), n);
  }
  EXPECT_EQ(w.cut_at(0.5), 5);
  PendingFile a(at("a"), false), b(at("b"), false);
  const TokenFileInfo left = w.write(a, 0, 5, nullptr), right = w.write(b, 5, 10, nullptr);
  a.commit();
  b.commit();
  EXPECT_THAT(TokenSource::open(at("a")).document_offsets(), ::testing::ElementsAre(0, 3, 5));
  EXPECT_THAT(TokenSource::open(at("b")).document_offsets(), ::testing::ElementsAre(0, 2, 5));
  EXPECT_EQ(left.num_bytes + right.num_bytes, 10);
  EXPECT_EQ(code_of([&] { w.write(PendingFile(at("c"), false), 5, 5, nullptr); }), Exit::kBadInput);
}

TEST_F(TokensTest, BadFiles) {
  EXPECT_EQ(code_of([&] { TokenSource::open(at("absent")); }), Exit::kNoInput);
  EXPECT_EQ(code_of([&] { TokenSource::open(file("empty", "")); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { TokenSource::open(dir_); }), Exit::kBadInput);
  std::string m;
  EXPECT_EQ(code_of([&] { write("big", {{1, 300}}, 256); }, &m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("token 1: expected an id below 256, found 300"));
  EXPECT_TRUE(fs::is_empty(dir_) || !fs::exists(at("big"))) << "nothing is left behind";

  const std::string good = write("good", {Ids(500, 3), Ids(500, 4)}, 5);
  std::ifstream in(good, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(in)), {});
  for (std::size_t cut : {bytes.size() - 1, bytes.size() / 2, std::size_t{48}, std::size_t{9}})
    EXPECT_EQ(code_of([&] { TokenSource::open(file("cut", bytes.substr(0, cut))); }), Exit::kBadInput) << cut;
  EXPECT_EQ(code_of([&] { TokenSource::open(file("more", bytes + "x")); }), Exit::kBadInput);
  int refused = 0;
  for (std::size_t i = 0; i < bytes.size(); i += 5) {  // a flipped bit is found, or it changed nothing that is read
    std::string flipped = bytes;
    flipped[i] = static_cast<char>(flipped[i] ^ 1);
    if (std::memcmp(flipped.data(), bytes.data(), 8) != 0) continue;  // another signature is text
    const Exit code = code_of([&] { EXPECT_EQ(TokenSource::open(file("flip", flipped)).info().num_tokens, 1000); });
    EXPECT_TRUE(code == Exit::kOk || code == Exit::kBadInput) << i;
    refused += code == Exit::kBadInput;
  }
  EXPECT_GT(refused, 100);
}

TEST_F(TokensTest, Tokenizers) {
  EXPECT_EQ(code_of([] { make_tokenizer("/nowhere/x.model"); }), Exit::kNoInput);
  EXPECT_EQ(code_of([] { restore_tokenizer("tiktoken", ""); }), Exit::kBadInput);
  const Exit junk = code_of([&] { make_tokenizer(file("junk.model", "not a model")); });
  EXPECT_TRUE(junk == Exit::kBadInput || junk == Exit::kUnavailable);
}

Ids imported(const ImportPlan& plan, const std::string& dir, int vocab) {
  TokenWriter w(dir, vocab, "unknown", "");
  import_tokens(plan, w);
  PendingFile out(dir + "/imported", true);
  w.write(out, 0, w.num_tokens(), nullptr);
  out.commit();
  return all_of(TokenSource::open(dir + "/imported"));
}

std::string llmc(std::int32_t magic, std::int32_t version, std::int32_t count, const std::string& ids) {
  return packed(magic, version, count) + std::string(1024 - 12, '\0') + ids;
}

TEST_F(TokensTest, LlmC) {
  const std::string u16 = packed(std::uint16_t{7}, std::uint16_t{50256}, std::uint16_t{0});
  EXPECT_EQ(imported(plan_llmc(file("a", llmc(20240520, 1, 3, u16))), dir_, 50257), (Ids{7, 50256, 0}));
  EXPECT_EQ(imported(plan_llmc(file("b", llmc(20240801, 7, 1, packed(std::uint32_t{128000})))), dir_, 128256),
            (Ids{128000}));
  for (const std::string& bad :
       {llmc(20240520, 2, 3, u16), llmc(1, 1, 3, u16), llmc(20240520, 1, 4, u16), llmc(20240520, 1, 2, u16),
        llmc(20240520, 1, -1, u16), llmc(20240520, 1, 0, ""), std::string("short")})
    EXPECT_EQ(code_of([&] { plan_llmc(file("bad", bad)); }), Exit::kBadInput);
  std::string m;
  EXPECT_EQ(code_of([&] { imported(plan_llmc(at("a")), dir_, 50000); }, &m), Exit::kBadInput);
  EXPECT_THAT(m, HasSubstr("/a: token 1: expected an id below 50000, found 50256"));
}

TEST_F(TokensTest, NanoGpt) {
  const std::string u16 = packed(std::uint16_t{1}, std::uint16_t{65535});
  EXPECT_EQ(imported(plan_nanogpt(file("a", u16), IdType::kU16), dir_, 65536), (Ids{1, 65535}));
  EXPECT_EQ(code_of([&] { imported(plan_nanogpt(at("a"), IdType::kU32), dir_, 65536); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { plan_nanogpt(file("odd", u16 + "x"), IdType::kU16); }), Exit::kBadInput);
  EXPECT_EQ(code_of([&] { plan_nanogpt(file("none", ""), IdType::kU16); }), Exit::kBadInput);
}

// Two documents, the first of two sequences: {1, 2}, {3} and {4, 5, 6}.
std::string idx_file(std::uint8_t code, std::int32_t last_length = 3, std::int64_t last_bound = 3) {
  std::string s("MMIDIDX\0\0", 9);
  const std::int64_t w = code == 4 ? 4 : 2;
  s += packed(std::uint64_t{1}, code, std::uint64_t{3}, std::uint64_t{3}, std::int32_t{2}, std::int32_t{1}, last_length);
  return s + packed(std::int64_t{0}, 2 * w, 3 * w, std::int64_t{0}, std::int64_t{2}, last_bound);
}

TEST_F(TokensTest, Megatron) {
  const std::string u16 =
      packed(std::uint16_t{1}, std::uint16_t{2}, std::uint16_t{3}, std::uint16_t{4}, std::uint16_t{5}, std::uint16_t{6});
  file("m.bin", u16);
  file("m.idx", idx_file(8));
  EXPECT_EQ(imported(plan_megatron(at("m")), dir_, 7), (Ids{1, 2, 3, 4, 5, 6}));
  EXPECT_THAT(TokenSource::open(at("imported")).document_offsets(), ::testing::ElementsAre(0, 3, 6));
  file("m.idx", idx_file(8) + std::string(3, '\0'));  // with modes
  EXPECT_EQ(plan_megatron(at("m")).num_tokens, 6);
  const std::string i32 = packed(1, 2, 3, 4, 5, 6);
  file("w.bin", i32);
  file("w.idx", idx_file(4));
  EXPECT_EQ(imported(plan_megatron(at("w")), dir_, 7), (Ids{1, 2, 3, 4, 5, 6}));
  file("w.bin", packed(1, 2, -3, 4, 5, 6));
  EXPECT_EQ(code_of([&] { imported(plan_megatron(at("w")), dir_, 7); }), Exit::kBadInput);

  std::string huge = idx_file(8);
  std::memset(huge.data() + 18, 0x7f, 8);  // so many sequences that sizes overflow
  for (const std::string& bad :
       {idx_file(8).substr(0, 40), idx_file(7), idx_file(9), idx_file(8, 4), idx_file(8, 2), idx_file(8, -1),
        idx_file(8, 3, 2), idx_file(8, 3, 9), huge, std::string("MMIDIDX"), "X" + idx_file(8).substr(1)}) {
    file("m.idx", bad);
    EXPECT_EQ(code_of([&] { plan_megatron(at("m")); }), Exit::kBadInput);
  }
  file("m.idx", idx_file(8));
  file("m.bin", u16 + "xx");
  EXPECT_EQ(code_of([&] { plan_megatron(at("m")); }), Exit::kBadInput);
  fs::remove(at("m.bin"));
  EXPECT_EQ(code_of([&] { plan_megatron(at("m")); }), Exit::kNoInput);
}

}  // namespace
}  // namespace moe
