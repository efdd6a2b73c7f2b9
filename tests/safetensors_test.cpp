// Safetensors: what is good is read to the byte, what breaks a rule of the format is refused by name, and no mutation of a
// header is taken that an own check would not take. Not here: what the tensors mean (hf_test.cpp).
#include "lib/io/safetensors.h"

#include <gmock/gmock.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "lib/io/safetensors_directory.h"
#include "tests/checkpoint_case.h"

namespace moe {
namespace {

using ::testing::HasSubstr;

void put(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t n = header.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + header + std::string(data_bytes, 'x');
}

std::string message_of(const std::string& header, std::int64_t data_bytes) {
  std::string message;
  EXPECT_EQ(code_of([&] { parse_safetensors_header(header, data_bytes, "f"); }, message), Exit::kBadInput) << header;
  return message;
}

const std::string kTwo = R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[4,28]},)"
                         R"("b":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}})";

TEST(SafetensorsHeader, GoodOnes) {
  const SafetensorsHeader h = parse_safetensors_header(kTwo + "   ", 28, "f");
  ASSERT_EQ(h.tensors.size(), 2u);
  EXPECT_EQ(h.tensors[0].name, "b");
  EXPECT_EQ(h.tensors[1].shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(h.metadata.at("format"), "pt");
  EXPECT_EQ(parse_safetensors_header("{}", 0, "f").tensors.size(), 0u);
  // A scalar, and tensors without an element wherever they stand.
  const SafetensorsHeader edge = parse_safetensors_header(
      R"({"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"I8","shape":[0,7],"data_offsets":[8,8]},)"
      R"("z":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})",
      8, "f");
  EXPECT_EQ(edge.tensors.size(), 3u);
  for (const char* type :
       {"BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F16", "BF16", "F32", "F64", "F8_E4M3", "F8_E5M2"})
    EXPECT_EQ(parse_safetensors_header(std::string(R"({"a":{"dtype":")") + type + R"(","shape":[0],"data_offsets":[0,0]}})",
                                       0, "f")
                  .tensors.size(),
              1u)
        << type;
}

TEST(SafetensorsHeader, EveryRuleHasAName) {
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& range) {
    return R"({"a":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + range + "}}";
  };
  EXPECT_THAT(message_of("", 0), HasSubstr("begins with '{'"));
  EXPECT_THAT(message_of("[]", 0), HasSubstr("begins with '{'"));
  EXPECT_THAT(message_of("{", 0), HasSubstr("expected JSON"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[0,8]") + "x", 8), HasSubstr("expected JSON"));
  EXPECT_THAT(message_of(R"({"a":1})", 0), HasSubstr("tensor a: expected a JSON object"));
  EXPECT_THAT(message_of(R"({"a":{"shape":[],"data_offsets":[0,0]}})", 0), HasSubstr("'dtype'"));
  EXPECT_THAT(message_of(R"({"a":{"dtype":"F32","data_offsets":[0,0]}})", 0), HasSubstr("'shape'"));
  EXPECT_THAT(message_of(R"({"a":{"dtype":"F32","shape":[]}})", 4), HasSubstr("'data_offsets'"));
  EXPECT_THAT(message_of(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0],"x":1}})", 0), HasSubstr("alone"));
  for (const char* type : {"F8_E8M0", "F4", "F6_E2M3", "F6_E3M2"})
    EXPECT_THAT(message_of(one(type, "[8]", "[0,8]"), 8), HasSubstr(std::string(type) + " is not supported"));
  EXPECT_THAT(message_of(one("float", "[2]", "[0,8]"), 8), HasSubstr("found 'float'"));
  EXPECT_THAT(message_of(one("F32", "[-2]", "[0,8]"), 8), HasSubstr("whole numbers"));
  EXPECT_THAT(message_of(one("F32", "[2.0]", "[0,8]"), 8), HasSubstr("whole numbers"));
  EXPECT_THAT(message_of(one("F32", "[\"2\"]", "[0,8]"), 8), HasSubstr("whole numbers"));
  EXPECT_THAT(message_of(one("F32", "2", "[0,8]"), 8), HasSubstr("expected a list"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[0,18446744073709551615]"), 8), HasSubstr("whole numbers"));
  EXPECT_THAT(message_of(one("F32", "[4611686018427387904,4]", "[0,8]"), 8), HasSubstr("impossible"));
  EXPECT_THAT(message_of(one("F32", "[4294967296,4294967296]", "[0,0]"), 0), HasSubstr("impossible"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[8,0]"), 8), HasSubstr("an end behind it"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[0,8,8]"), 8), HasSubstr("an end behind it"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[0,7]"), 7), HasSubstr("expected 8 bytes for F32 [2]"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[1,9]"), 9), HasSubstr("bytes that nothing names"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[0,8]"), 12), HasSubstr("expected 8 bytes of data, found 12"));
  EXPECT_THAT(message_of(one("F32", "[2]", "[0,8]"), 7), HasSubstr("expected 8 bytes of data, found 7"));
  const std::string entry = R"("a":{"dtype":"I8","shape":[4],"data_offsets":[0,4]})";
  EXPECT_THAT(message_of("{" + entry + "," + entry + "}", 4), HasSubstr("stands twice"));
  EXPECT_THAT(message_of("{" + entry + R"(,"b":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}})", 4), HasSubstr("overlap"));
  EXPECT_THAT(message_of("{" + entry + R"(,"b":{"dtype":"I8","shape":[4],"data_offsets":[3,7]}})", 7), HasSubstr("overlap"));
  EXPECT_THAT(message_of("{" + entry + R"(,"b":{"dtype":"I8","shape":[4],"data_offsets":[5,9]}})", 9),
              HasSubstr("nothing names"));
  for (const char* name : {"", "a b", "a/b", "..\\\\x", "a\\n"})
    EXPECT_THAT(message_of(std::string("{\"") + name + R"(":{"dtype":"I8","shape":[0],"data_offsets":[0,0]}})", 0),
                HasSubstr("plain names"));
  EXPECT_THAT(message_of(R"({"__metadata__":{"a":1}})", 0), HasSubstr("texts alone"));
  EXPECT_THAT(message_of(R"({"__metadata__":[]})", 0), HasSubstr("__metadata__"));
}

class SafetensorsTest : public CheckpointTest {
 protected:
  std::string path(const char* name) const { return dir_ + "/" + name; }
  std::string refused(const std::string& bytes, Exit expected = Exit::kBadInput) {
    put(path("f"), bytes);
    hint_.clear();
    try {
      const SafetensorsFile f(path("f"));
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), expected);
      hint_ = e.hint();
      return e.what();
    }
    ADD_FAILURE() << "taken";
    return "";
  }
  std::string hint_;
};

TEST_F(SafetensorsTest, WhatIsNoSuchFileIsNamed) {
  EXPECT_THAT(refused("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"), HasSubstr("git-lfs pointer"));
  EXPECT_THAT(hint_, HasSubstr("git lfs pull"));
  EXPECT_THAT(refused("<!DOCTYPE html><html>"), HasSubstr("a web page"));
  EXPECT_THAT(refused("PK\x03\x04 and so on"), HasSubstr("zip archive"));
  EXPECT_THAT(refused(""), HasSubstr("found 0 bytes"));
  EXPECT_THAT(refused("1234567"), HasSubstr("found 7 bytes"));
  EXPECT_THAT(refused(std::string(8, '\xff')), HasSubstr("at most 100,000,000"));
  EXPECT_THAT(refused(file_of(kTwo, 28).substr(0, 60)), HasSubstr("expected a header of"));
  EXPECT_THAT(hint_, HasSubstr("the file is cut"));
  EXPECT_THAT(refused(file_of(kTwo, 27)), HasSubstr("expected 28 bytes of data, found 27"));
  EXPECT_THAT(hint_, HasSubstr("the file is cut"));
  EXPECT_THAT(refused(file_of(kTwo, 32)), HasSubstr("found 32"));
  std::string message;
  EXPECT_EQ(code_of([&] { SafetensorsFile f(path("none")); }, message), Exit::kNoInput);
}

TEST_F(SafetensorsTest, WriterAndReaderAgreeInAnyOrderOfWriting) {
  SafetensorsWriter w(path("f"),
                      {{"b", SafeType::kBF16, {3}},
                       {"z", SafeType::kF32, {2, 2}},
                       {"a", SafeType::kBF16, {2, 2}},
                       {"s", SafeType::kF32, {}},
                       {"n", SafeType::kU8, {0}}},
                      {{"format", "pt"}});
  const float z[4] = {1, 2, 3, 4}, s = 5;
  const std::uint16_t a[4] = {6, 7, 8, 9}, b[3] = {10, 11, 12};
  const auto bytes = [](const auto* v) { return reinterpret_cast<const std::byte*>(v); };
  w.write(2, 2, 2, bytes(a + 2));
  w.write(1, 0, 4, bytes(z));
  w.write(0, 0, 3, bytes(b));
  w.write(2, 0, 2, bytes(a));
  std::string message;
  EXPECT_EQ(code_of([&] { w.finish(); }, message), Exit::kInternal);  // s is missing
  w.write(3, 0, 1, bytes(&s));
  w.finish();
  EXPECT_EQ(code_of([&] { w.write(3, 1, 1, bytes(&s)); }, message), Exit::kInternal);

  // The header as the reference implementation writes it: wide types first, then names; length a multiple of 8.
  std::ifstream in(path("f"), std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(in)), {});
  const std::string want =
      R"({"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
      R"("z":{"dtype":"F32","shape":[2,2],"data_offsets":[4,20]},"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[20,28]},)"
      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[28,34]},"n":{"dtype":"U8","shape":[0],"data_offsets":[34,34]}})";
  const std::size_t padded = (want.size() + 7) / 8 * 8;
  EXPECT_EQ(all.substr(8, padded), want + std::string(padded - want.size(), ' '));
  EXPECT_EQ(static_cast<unsigned char>(all[0]), padded % 256);
  EXPECT_EQ(all.size(), 8 + padded + 34);

  const SafetensorsFile f(path("f"));
  for (const SafeTensor& t : f.tensors()) {
    if (t.name != "a") continue;
    std::uint16_t got[2] = {};
    f.read(t, 1, 2, reinterpret_cast<std::byte*>(got));
    EXPECT_EQ(got[0], 7);
    EXPECT_EQ(got[1], 8);
    EXPECT_EQ(code_of([&] { f.read(t, 3, 2, reinterpret_cast<std::byte*>(got)); }, message), Exit::kInternal);
  }
}

TEST_F(SafetensorsTest, DirectoriesAreWhole) {
  const auto entry = [](const char* name) {
    return std::string("\"") + name + R"(":{"dtype":"I8","shape":[4],"data_offsets":[0,4]})";
  };
  const auto reset = [&] {
    fs::remove_all(run_);
    fs::create_directory(run_);
    put(run_ + "/model-1.safetensors", file_of("{" + entry("a") + "}", 4));
    put(run_ + "/model-2.safetensors", file_of("{" + entry("b") + "}", 4));
  };
  const auto index = [&](const std::string& map, const std::string& metadata = R"({"total_size":8})") {
    put(run_ + "/model.safetensors.index.json", R"({"metadata":)" + metadata + R"(,"weight_map":)" + map + "}");
  };
  const std::string good = R"({"a":"model-1.safetensors","b":"model-2.safetensors"})";
  const auto refused_with = [&](const std::string& text, Exit expected = Exit::kBadInput) {
    std::string message;
    EXPECT_EQ(code_of([&] { SafetensorsDirectory d(run_); }, message), expected) << text;
    EXPECT_THAT(message, HasSubstr(text));
  };
  reset();
  refused_with("found neither", Exit::kNoInput);
  index(good);
  EXPECT_EQ(SafetensorsDirectory(run_).tensors().size(), 2u);
  index(good, "{}");
  EXPECT_EQ(SafetensorsDirectory(run_).files().size(), 2u);
  index(good, R"({"total_size":9.5})");
  EXPECT_EQ(SafetensorsDirectory(run_).files().size(), 2u) << "said, not refused";
  index(good, R"({"total_size":"8"})");
  refused_with("total_size: expected a number");
  index(R"({"a":"model-1.safetensors","b":"model-2.safetensors","c":"model-2.safetensors"})");
  refused_with("in no file: c");
  index(R"({"a":"model-2.safetensors","b":"model-1.safetensors"})");
  refused_with("in another file: a, b");
  index(R"({"a":"model-1.safetensors"})");
  refused_with("found model-2.safetensors too");
  for (const char* name :
       {"../model-1.safetensors", "/etc/x.safetensors", "x/y.safetensors", ".x.safetensors", "model.bin"}) {
    index(std::string(R"({"a":")") + name + "\"}");
    refused_with("weight_map: tensor a");
  }
  index(R"({"a":"model-1.safetensors","a":"model-1.safetensors"})");
  refused_with("stands twice");
  index(R"({"a":"model-1.safetensors","b":"model-3.safetensors"})");
  refused_with("missing: model-3.safetensors", Exit::kNoInput);
  put(run_ + "/model-2.safetensors", file_of("{" + entry("a") + "}", 4));
  index(good);
  refused_with("tensor a is in two files");
  reset();
  index(good);
  put(run_ + "/consolidated.safetensors", "not looked at");
  EXPECT_EQ(SafetensorsDirectory(run_).others().size(), 1u);
  put(run_ + "/model.safetensors", file_of("{" + entry("a") + "}", 4));
  refused_with("found model.safetensors too");
}

// True if the ranges, looked at in another way, hold each byte once.
bool holds_each_byte_once(const SafetensorsHeader& h, std::int64_t data_bytes) {
  std::vector<int> times(static_cast<std::size_t>(data_bytes));
  for (const SafeTensor& t : h.tensors) {
    std::int64_t n = static_cast<std::int64_t>(size_of(t.type));
    for (const std::int64_t d : t.shape) n *= d;
    if (t.begin_bytes < 0 || t.end_bytes > data_bytes || t.end_bytes - t.begin_bytes != n) return false;
    for (std::int64_t i = t.begin_bytes; i < t.end_bytes; ++i) ++times[static_cast<std::size_t>(i)];
  }
  return std::all_of(times.begin(), times.end(), [](int n) { return n == 1; });
}

// MOE_FUZZ_COUNT sets how many.
TEST(SafetensorsFuzz, MutatedHeadersAreRefusedOrTrue) {
  const char* const asked = std::getenv("MOE_FUZZ_COUNT");
  const int count = asked ? std::atoi(asked) : 100'000;
  const std::vector<std::string> words = {
      "[",   "]",   "{",    "}", ",", "\"",   "0",       "-1",   "4294967296", "9223372036854775807",
      "1e3", "F64", "BF16", "a", "b", "null", "\\u0000", "\xff", "[[[[[[[["};
  std::mt19937_64 random(7);
  int taken = 0;
  for (int i = 0; i < count; ++i) {
    std::string text = kTwo;
    for (std::uint64_t n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = random() % text.size();
      const std::string& word = words[random() % words.size()];
      switch (random() % 5) {
        case 0:
          text[at] = static_cast<char>(random());
          break;
        case 1:
          text.insert(at, word);
          break;
        case 2:
          text.replace(at, word.size(), word);
          break;
        case 3:
          text.erase(at, 1 + random() % 9);
          break;
        default:
          text[at] = static_cast<char>('0' + random() % 10);
      }
      if (text.empty()) text = "{";
    }
    const auto data_bytes = static_cast<std::int64_t>(random() % 8 == 0 ? random() % 64 : 28);
    try {
      const SafetensorsHeader h = parse_safetensors_header(text, data_bytes, "f");
      ++taken;
      ASSERT_TRUE(holds_each_byte_once(h, data_bytes)) << text;
    } catch (const Error& e) {
      ASSERT_EQ(e.code(), Exit::kBadInput) << text;
    }
  }
  EXPECT_LT(taken, count / 2);  // most mutations matter, some do not (a name, a space)
}

}  // namespace
}  // namespace moe
