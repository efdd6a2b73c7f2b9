// What Options prints: the configuration reads back, the help fits, the man page and the completion are what their
// programs expect. The tools' own texts are in tools_options_test.sh.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "lib/base/provenance.h"
#include "tests/tool_options.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

// All values as text; two tools with equal values are set alike.
std::vector<std::string> values_of(const Tool& t) {
  std::vector<std::string> values;
  for (const auto& option : t.options.all()) values.push_back(option->name + "=" + option->get());
  return values;
}

TEST(PrintConfig, ReadsBackTheSame) {
  Tool said;
  ASSERT_TRUE(said.parse({"encode", "a b.txt", "", "#.txt", "--sample", "x # \"y\" \\ \n\t, \u2013 ", "--lr", "0.1", "--eps",
                          "3.4028235e38", "--no-tied", "--tokens", "-9", "--device", "cpu"}));
  const TextFile file(said.options.config_text());
  Tool read;
  ASSERT_TRUE(read.parse({"--config", file.path()}));
  read.common.config.clear();
  EXPECT_EQ(values_of(read), values_of(said));
  EXPECT_EQ(read.sample, said.sample);
}

TEST(PrintConfig, ShowsOrigins) {
  Variable steps("MOE_STEPS", "7");
  Tool t;
  ASSERT_TRUE(t.parse({"show", "--lr", "0.5"}));
  t.options.set("tokens", {"5"}, Origin::kPreset);
  const std::string text = t.options.config_text();
  EXPECT_THAT(text, ::testing::ContainsRegex("\nsteps = 7 +# environment\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\nlr = 0.5 +# command line\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\ntokens = 5 +# preset\n"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\neps = 1e-5 +# default\n"));
  EXPECT_THAT(text, Not(HasSubstr("\nconfig =")));
}

TEST(PrintConfig, NeedsNothing) {
  Tool t;
  EXPECT_TRUE(t.parse({"--print-config"}));
}

TEST(Help, FitsAHundredColumnsAndEndsWithExamples) {
  Tool t;
  t.options.add("preset", t.output, "which model").choices =
      std::vector<std::string>(20, "mixture-of-experts");  // a list that is no placeholder
  t.options.all().back()->value = std::string(300, '|');
  const std::string help = t.options.help();
  std::istringstream lines(help);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
  EXPECT_THAT(help, HasSubstr("  -o, --output DIR            where to write\n"));
  EXPECT_THAT(help, HasSubstr("number of steps [100]\n"));
  EXPECT_THAT(help, HasSubstr("--[no-]tied"));
  EXPECT_THAT(help, HasSubstr("Usage: moe-x [options] COMMAND [INPUTS...]\n"));
  EXPECT_THAT(help, ::testing::EndsWith("Examples:\n  moe-x show a.txt\n  moe-x encode a.txt -o out --lr 3e-4\n"));
}

TEST(Help, HiddenOptionsAreHidden) {
  Tool t;
  int secret = 0;
  t.options.add("secret", secret, "for tests").hidden = true;
  for (const std::string& text :
       {t.options.help(), t.options.man_page(), t.options.bash_completion(), t.options.config_text()})
    EXPECT_THAT(text, Not(HasSubstr("secret")));
  ASSERT_TRUE(t.parse({"show", "--secret", "3"}));
  EXPECT_EQ(secret, 3);
}

TEST(Json, NamesAndValueTexts) {
  Tool t;
  ASSERT_TRUE(t.parse({"show", "--tag", "a", "--tag", "b,c"}));
  const nlohmann::json json = t.options.to_json();
  EXPECT_EQ(json.at("steps"), "100");
  EXPECT_EQ(json.at("command"), "show");
  EXPECT_EQ(json.at("tag"), "a, \"b,c\"");
}

TEST(ManPage, HasItsSectionsAndNoStrayRequests) {
  const std::string page = Tool().options.man_page();
  for (const char* title :
       {"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "ENVIRONMENT", "EXIT STATUS", "FILES", "EXAMPLES", "SEE ALSO"})
    EXPECT_THAT(page, HasSubstr(std::string("\n.SH ") + title + "\n"));
  EXPECT_THAT(page, HasSubstr("\\fB\\-\\-lr\\fR \\fIFLOAT\\fR\n"));
  const std::set<std::string> requests{".TH", ".SH", ".SS", ".TP", ".PP", ".EX", ".EE", ".nh", ".ad"};
  std::istringstream lines(page);
  for (std::string line; std::getline(lines, line);) {
    EXPECT_FALSE(line.empty());  // an empty line is a request to troff
    if (line[0] != '.') continue;
    EXPECT_EQ(requests.count(line.substr(0, line.find(' '))), 1u) << line;
  }
}

TEST(Completion, OffersOptionsAndChoices) {
  const std::string script = Tool().options.bash_completion();
  EXPECT_THAT(script, HasSubstr("--device) COMPREPLY=( $(compgen -W 'cpu cuda auto' -- \"$cur\") )"));
  EXPECT_THAT(script, HasSubstr("--output|-o) COMPREPLY=( $(compgen -d"));
  EXPECT_THAT(script, HasSubstr(" --no-tied "));
  EXPECT_THAT(script, HasSubstr("complete -o filenames -F _moe_x moe-x"));
}

TEST(Provenance, AppendsItsEntryToTheChain) {
  Tool t;
  ASSERT_TRUE(t.parse({"show", "--steps", "3"}));
  const Invocation invocation{t.options, {"moe-x", "show", "--steps", "3"}};
  const nlohmann::json first = provenance_chain(invocation, nullptr, {});
  const nlohmann::json second = provenance_chain(invocation, first, {{"a.h5", "12ab"}});
  ASSERT_EQ(second.size(), 2u);
  EXPECT_EQ(second[0], first[0]);
  EXPECT_EQ(second[1].at("tool"), "moe-x");
  EXPECT_EQ(second[1].at("argv").size(), 4u);
  EXPECT_EQ(second[1].at("options").at("steps"), "3");
  EXPECT_EQ(second[1].at("inputs")[0].at("digest"), "12ab");
  EXPECT_THAT(second[1].at("utc").get<std::string>(), ::testing::ContainsRegex("^20[0-9-]{8}T[0-9:]{8}Z$"));
  EXPECT_FALSE(version_text().empty());
  EXPECT_FALSE(git_commit().empty());
}

}  // namespace
}  // namespace moe
