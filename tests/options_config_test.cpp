// The configuration file: what it may say, and line and column of what it may not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/tool_options.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

std::string error_of_file(const std::string& text, std::string* path = nullptr) {
  const TextFile file(text);
  if (path) *path = file.path();
  Tool t;
  const std::string message = t.error_of({"show", "--config", file.path()});
  return message.rfind(file.path() + ":", 0) == 0 ? message.substr(file.path().size() + 1) : message;
}

TEST(ConfigFile, ValuesCommentsQuotesAndCarriageReturns) {
  const TextFile file(
      "\xEF\xBB\xBF# a comment\r\n\r\n  steps=7   # seven\r\nsample = \"a # \\\"b\\\" \\\\ \\n\\tc \u2013\"  # kept\r\n"
      "output = some where\r\ntied = off\r\ntag = a, \"b, c\" ,d\r\ninputs = x.txt\r\nlr = 2e-3");
  Tool t;
  ASSERT_TRUE(t.parse({"show", "--config", file.path()}));
  EXPECT_EQ(t.steps, 7);
  EXPECT_EQ(t.sample, "a # \"b\" \\ \n\tc \u2013");
  EXPECT_EQ(t.output, "some where");
  EXPECT_FALSE(t.tied);
  EXPECT_THAT(t.tags, ElementsAre("a", "b, c", "d"));
  EXPECT_THAT(t.inputs, ElementsAre("x.txt"));
  EXPECT_EQ(t.lr, 2e-3);
}

TEST(ConfigFile, PathFromTheEnvironment) {
  const TextFile file("steps = 7\n");
  Variable config("MOE_CONFIG", file.path().c_str());
  Tool t;
  ASSERT_TRUE(t.parse({"show"}));
  EXPECT_EQ(t.steps, 7);
}

struct Wrong {
  std::string text, message;
};
class WrongConfigFile : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongConfigFile, NamesLineAndColumn) { EXPECT_THAT(error_of_file(GetParam().text), StartsWith(GetParam().message)); }

INSTANTIATE_TEST_SUITE_P(
    All, WrongConfigFile,
    ::testing::Values(Wrong{"steps = 1\n  stesp = 2\n", "2:3: unknown key stesp; did you mean steps?"},
                      Wrong{"steps = 1\nlr = 2\nsteps = 1\n", "3:1: steps is given twice, first in line 1"},
                      Wrong{"\nlr = fast\n", "2:6: lr: expected a finite number, found \"fast\""},
                      Wrong{"steps = 12 k\n", "1:9: steps: expected a whole number, found \"12 k\""},
                      Wrong{"lr = 3e\u20134\n", "1:8: found a dash that is not the ASCII character -"},
                      Wrong{"batch\u2013size = 4\n", "1:6: found a dash that is not the ASCII character -"},
                      Wrong{"steps 3\n", "1:7: expected = after steps, found \"3\""},
                      Wrong{"steps\n", "1:6: expected = after steps, found the end of the line"},
                      Wrong{"steps =  # none\n", "1:10: expected a value for steps, found the end of the line"},
                      Wrong{"[training]\n", "1:1: expected name = value, found \"[training]\""},
                      Wrong{"sample = \"open\n", "1:10: expected a closing \", found the end of the line"},
                      Wrong{"sample = \"a\" b\n", "1:14: expected the end of the line after the value, found \"b\""},
                      Wrong{"sample = \"a\\x\"\n", "1:12: expected \\\", \\\\, \\n or \\t inside quotes"},
                      Wrong{"sample = a \"b\"\n", "1:12: found \" inside a value"},
                      Wrong{"output = run#1\n", "1:13: found # inside a value"},
                      Wrong{"tied = maybe\n", "1:8: tied: expected true or false, found \"maybe\""},
                      Wrong{"device = gpu\n", "1:10: device: expected one of cpu, cuda, auto; found \"gpu\""},
                      Wrong{"config = other\n", "1:1: config may only be given on the command line"},
                      Wrong{"print-config = true\n", "1:1: print-config may only be given on the command line"}));

TEST(ConfigFile, WrongValueIsFoundEvenIfTheCommandLineOverridesIt) {
  const TextFile file("steps = x\n");
  Tool t;
  EXPECT_NE(t.error_of({"show", "--steps", "3", "--config", file.path()}), "");
}

TEST(ConfigFile, BinaryDataIsRefused) {
  EXPECT_THAT(error_of_file(std::string("\x89HDF\r\n\x1a\n\0\0", 10)), ::testing::HasSubstr("found other data"));
  EXPECT_THAT(error_of_file(std::string((1 << 20) + 1, '#')), ::testing::HasSubstr("found other data"));
}

TEST(ConfigFile, MissingFileAndFolder) {
  for (const char* path : {"/no/such/file.conf", "/"}) {
    Tool t;
    try {
      t.parse({"show", "--config", path});
      FAIL() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kNoInput);
      EXPECT_THAT(error.what(), StartsWith(path));
    }
  }
}

}  // namespace
}  // namespace moe
