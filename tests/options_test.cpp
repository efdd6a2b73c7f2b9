// Options: command line, environment and precedence, through a struct as a tool would have it. The configuration file is
// in options_config_test.cpp, what is printed in options_print_test.cpp.
#include "lib/base/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "tests/tool_options.h"

namespace moe {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(CommandLine, EveryTypeOfField) {
  Tool t;
  ASSERT_TRUE(t.parse({"encode",
                       "a.txt",
                       "-o",
                       "out",
                       "--steps",
                       "-5",
                       "--tokens=123456789012",
                       "--seed",
                       "18446744073709551615",
                       "--lr",
                       "3e-4",
                       "--eps",
                       "1e-6",
                       "--sample",
                       "a b",
                       "--no-tied",
                       "-v",
                       "--tag",
                       "x",
                       "b.txt",
                       "--tag",
                       "y"}));
  EXPECT_EQ(t.command, Command::kEncode);
  EXPECT_THAT(t.inputs, ElementsAre("a.txt", "b.txt"));
  EXPECT_EQ(t.output, "out");
  EXPECT_EQ(t.steps, -5);
  EXPECT_EQ(t.tokens, 123456789012);
  EXPECT_EQ(t.common.seed, std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(t.lr, 3e-4);
  EXPECT_EQ(t.eps, 1e-6f);
  EXPECT_EQ(t.sample, "a b");
  EXPECT_FALSE(t.tied);
  EXPECT_TRUE(t.common.verbose);
  EXPECT_THAT(t.tags, ElementsAre("x", "y"));
}

TEST(CommandLine, NothingSaidKeepsDefaults) {
  Tool t;
  ASSERT_TRUE(t.parse({"show"}));
  EXPECT_EQ(t.steps, 100);
  EXPECT_TRUE(t.tied);
  EXPECT_TRUE(t.options.is_set("command"));
  EXPECT_FALSE(t.options.is_set("steps"));
  EXPECT_TRUE(t.inputs.empty());
}

TEST(CommandLine, DashIsAnInputAndTwoDashesEndTheOptions) {
  Tool t;
  ASSERT_TRUE(t.parse({"show", "-", "--json", "-", "--", "--steps"}));
  EXPECT_THAT(t.inputs, ElementsAre("-", "--steps"));
  EXPECT_EQ(t.common.json, "-");
}

struct Wrong {
  std::vector<std::string> words;
  std::string message;  // part of it
};
class WrongCommandLine : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongCommandLine, IsUsageErrorThatNamesTheThing) {
  Tool t;
  EXPECT_THAT(t.error_of(GetParam().words), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, WrongCommandLine,
    ::testing::Values(
        Wrong{{"show", "--foo"}, "unknown option --foo"},  //
        Wrong{{"show", "--step", "3"}, "unknown option --step; did you mean --steps?"},
        Wrong{{"show", "--step=3"}, "unknown option --step; did you mean --steps?"},
        Wrong{{"show", "--no-tide"}, "unknown option --no-tide; did you mean --no-tied?"},
        Wrong{{"show", "-lr", "3"}, "unknown option -lr; did you mean --lr?"}, Wrong{{"show", "-z"}, "unknown option -z"},
        Wrong{{"show", "--steps", "1e3"}, "--steps: expected a whole number, found \"1e3\""},
        Wrong{{"show", "--steps", "1_000"}, "--steps: expected a whole number, found \"1_000\""},
        Wrong{{"show", "--steps", "12k"}, "found \"12k\""}, Wrong{{"show", "--steps", " 12"}, "found \" 12\""},
        Wrong{{"show", "--steps", ""}, "found \"\""},
        Wrong{{"show", "--steps", "3000000000"},
              "expected a whole number from -2147483648 to 2147483647, found \"3000000000\""},
        Wrong{{"show", "--seed", "-1"}, "--seed: expected a whole number from 0 to 18446744073709551615, found \"-1\""},
        Wrong{{"show", "--lr", "0,5"}, "--lr: expected a finite number, found \"0,5\""},
        Wrong{{"show", "--lr", "nan"}, "--lr: expected a finite number, found \"nan\""},
        Wrong{{"show", "--lr", "inf"}, "found \"inf\""},
        Wrong{{"show", "--eps", "1e99"}, "--eps: expected a finite number, found \"1e99\""},
        Wrong{{"show", "--device", "cpuu"}, "--device: expected one of cpu, cuda, auto; found \"cpuu\"; did you mean cpu?"},
        Wrong{{"shwo"}, "COMMAND: expected one of encode, show; found \"shwo\"; did you mean show?"},
        Wrong{{}, "COMMAND is missing"}, Wrong{{"show", "--lr"}, "--lr: expected FLOAT, found the end of the command line"},
        Wrong{{"show", "--output=", "a.txt"}, "--output: expected DIR after =, found nothing"},
        Wrong{{"show", "---steps", "3"}, "unknown option ---steps; did you mean --steps?"},
        Wrong{{"show", "-o"}, "-o: expected DIR, found the end of the command line"},
        Wrong{{"show", "--output", "--lr", "3"}, "--output: expected DIR, found the option --lr"},
        Wrong{{"show", "--lr", "1", "--lr", "1"}, "--lr: expected once, found 2 times"},
        Wrong{{"show", "--tied", "--no-tied"}, "--tied: expected once, found 2 times"},
        Wrong{{"show", "--tied=yes"}, "--tied: expected no value, found \"--tied=yes\""},
        Wrong{{"show", "\u2014lr", "3"}, "\"\u2014lr\" begins with a dash that is not the ASCII character -"}));

TEST(CommandLine, TooManyArguments) {
  Options options("moe-x", "x", {});
  const char* argv[] = {"moe-x", "extra"};
  try {
    options.parse(2, argv);
    FAIL() << "accepted an argument that nobody takes";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "unexpected argument \"extra\"");
    EXPECT_EQ(error.code(), Exit::kUsage);
  }
}

TEST(Environment, SetsOptions) {
  Variable steps("MOE_STEPS", "7"), tied("MOE_TIED", "0"), tags("MOE_TAG", "a,b"), empty("MOE_LR", "");
  Tool t;
  ASSERT_TRUE(t.parse({"show"}));
  EXPECT_EQ(t.steps, 7);
  EXPECT_FALSE(t.tied);
  EXPECT_THAT(t.tags, ElementsAre("a", "b"));
  EXPECT_FALSE(t.options.is_set("lr"));
  EXPECT_EQ(t.options.find("steps").origin, Origin::kEnvironment);
}

TEST(Environment, WrongValueNamesTheVariable) {
  Variable steps("MOE_STEPS", "many");
  EXPECT_THAT(Tool().error_of({"show", "--steps", "3"}), HasSubstr("MOE_STEPS: expected a whole number, found \"many\""));
}

TEST(Environment, MisspeltVariableIsAnError) {
  Variable steps("MOE_STPES", "7");
  EXPECT_THAT(Tool().error_of({"show"}), HasSubstr("MOE_STPES is no option; did you mean MOE_STEPS?"));
}

TEST(Environment, OtherVariablesAreLeftAlone) {
  Variable isa("MOE_ISA", "avx2"), fault("MOE_FAULT", "x"), ep("MOE_EP", "4"), far("MOE_SOMETHING_ELSE", "1"),
      lower("MOE_steps", "1");
  Tool t;
  EXPECT_THAT(t.error_of({"show"}), HasSubstr("MOE_steps is no option; did you mean MOE_STEPS?"));
  unsetenv("MOE_steps");
  EXPECT_TRUE(t.parse({"show"}));
}

TEST(Precedence, CommandLineThenEnvironmentThenFile) {
  const TextFile file("steps = 1\nlr = 0.1\neps = 0.1\n");
  Variable steps("MOE_STEPS", "2"), lr("MOE_LR", "0.2");
  Tool t;
  ASSERT_TRUE(t.parse({"show", "--steps", "3", "--config", file.path()}));
  EXPECT_EQ(t.steps, 3);
  EXPECT_EQ(t.lr, 0.2);
  EXPECT_EQ(t.eps, 0.1f);
  EXPECT_EQ(t.options.find("eps").origin, Origin::kConfigFile);
}

TEST(Precedence, PresetAndCheckpointAfterParseYieldToTheUser) {
  Tool t;
  ASSERT_TRUE(t.parse({"show", "--steps", "3"}));
  t.options.set("lr", {"0.5"}, Origin::kCheckpoint);
  for (const char* name : {"steps", "lr", "tokens"}) t.options.set(name, {"9"}, Origin::kPreset);
  EXPECT_EQ(t.steps, 3);
  EXPECT_EQ(t.lr, 0.5);
  EXPECT_EQ(t.tokens, 9);
  EXPECT_EQ(t.options.find("tokens").origin, Origin::kPreset);
}

TEST(Precedence, AfterParseMaySatisfyWhatIsNeeded) {
  Tool t;
  t.options.after_parse([](Options& options) { options.set("command", {"encode"}, Origin::kPreset); });
  ASSERT_TRUE(t.parse({}));
  EXPECT_EQ(t.command, Command::kEncode);
}

TEST(Set, UnknownNameAndWrongValue) {
  Tool t;
  EXPECT_THROW(t.options.set("stesp", {"1"}, Origin::kPreset), Error);
  EXPECT_THROW(t.options.set("steps", {"x"}, Origin::kPreset), Error);
  EXPECT_THROW(t.options.set("steps", {"1", "2"}, Origin::kPreset), Error);
  EXPECT_EQ(t.steps, 100);
  EXPECT_FALSE(t.options.is_set("steps"));
}

TEST(NearestName, SlipsPrefixesAndStrangers) {
  const std::vector<std::string> names{"steps", "lr", "batch-size", "seq"};
  EXPECT_EQ(nearest_name("stpes", names), "steps");
  EXPECT_EQ(nearest_name("batch_size", names), "batch-size");
  EXPECT_EQ(nearest_name("batch", names), "batch-size");
  EXPECT_EQ(nearest_name("lrr", names), "lr");
  EXPECT_EQ(nearest_name("xy", names), "");
  EXPECT_EQ(nearest_name("", names), "");
  EXPECT_EQ(nearest_name("checkpoint", names), "");
}

}  // namespace
}  // namespace moe
