// The shape of every main: exit codes, the line of an error, and what happens to standard output. The built tools are
// tested in tools_options_test.sh.
#include "tools/tool_main.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <new>
#include <stdexcept>

#include "lib/base/log.h"
#include "tests/child.h"
#include "tests/tool_options.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

int call(std::vector<std::string> words, const std::function<Exit()>& body) {
  Tool tool;
  words.insert(words.begin(), "moe-x");
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  return tool_main(static_cast<int>(words.size()), argv.data(), tool.options, tool.common,
                   [&](const Invocation& invocation) {
                     EXPECT_EQ(invocation.argv, words);
                     return body();
                   });
}

Ran run_tool(const std::vector<std::string>& words, const std::function<Exit()>& body, const std::string& out_path = "") {
  return run_child([&] { return call(words, body); }, out_path);
}

Exit fine() { return Exit::kOk; }

TEST(ToolMain, ReturnsWhatTheRunReturns) {
  for (const Exit code : {Exit::kOk, Exit::kCheckFailed, Exit::kStoppedEarly, Exit::kNumeric})
    EXPECT_EQ(run_tool({"show"}, [=] { return code; }).code, static_cast<int>(code));
}

TEST(ToolMain, ErrorIsOneLineAndAHint) {
  const Ran ran = run_tool({"show"}, []() -> Exit { throw Error(Exit::kBadInput, "a.h5: expected x, found y", "do z"); });
  EXPECT_EQ(ran.code, 65);
  EXPECT_EQ(ran.err, "moe-x: error: a.h5: expected x, found y\n  hint: do z\n");
  EXPECT_EQ(ran.out, "");
}

TEST(ToolMain, UsageErrorIsReportedBeforeAnythingRuns) {
  const Ran ran = run_tool({"show", "--stpes", "3"}, []() -> Exit { throw std::runtime_error("ran"); });
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.err,
            "moe-x: error: unknown option --stpes; did you mean --steps?\n  hint: moe-x --help lists all options\n");
}

TEST(ToolMain, OutOfMemoryAndOtherExceptions) {
  const Ran memory = run_tool({"show"}, []() -> Exit { throw std::bad_alloc(); });
  EXPECT_EQ(memory.code, 1);
  EXPECT_THAT(memory.err, StartsWith("moe-x: error: out of memory\n  hint: "));
  const Ran bug = run_tool({"show"}, []() -> Exit { throw std::runtime_error("boom"); });
  EXPECT_EQ(bug.code, 1);
  EXPECT_EQ(bug.err, "moe-x: error: internal error: boom\n");
  EXPECT_EQ(run_tool({"show"}, []() -> Exit { throw 3; }).code, 1);
}

TEST(ToolMain, CommonOptionsAreChecked) {
  setenv("MOE_CUDA_PLUGIN", "/nothing.so", 1);  // as on a machine without CUDA
  const Ran cuda = run_tool({"show", "--device", "cuda"}, fine);
  EXPECT_EQ(cuda.code, 69);
  EXPECT_THAT(cuda.err, AllOf(HasSubstr("expected a CUDA device, found no CUDA plugin"), HasSubstr("hint: use --device cpu")));
  EXPECT_EQ(run_tool({"show", "--device", "auto"}, fine).code, 0);
  EXPECT_EQ(run_tool({"show", "--threads", "-1"}, fine).code, 2);
  EXPECT_EQ(run_tool({"show", "-v", "-q"}, fine).code, 2);
  EXPECT_EQ(run_tool({"show", "--log-file", "/dev/null/x"}, fine).code, 73);
}

TEST(ToolMain, LogLevelsFollowTheOptions) {
  const auto log = [] {
    log_debug("d");
    log_info("i");
    return Exit::kOk;
  };
  EXPECT_EQ(run_tool({"show"}, log).err, "i\n");
  EXPECT_EQ(run_tool({"show", "-v"}, log).err, "d\ni\n");
  EXPECT_EQ(run_tool({"show", "-q"}, log).err, "");
}

TEST(ToolMain, PrintedTextsRunNothing) {
  const auto boom = []() -> Exit { throw std::runtime_error("ran"); };
  const std::pair<const char*, const char*> kTexts[] = {
      {"--help", "Usage: moe-x"},        {"-h", "Usage: moe-x"},     {"--version", "moe-x "},
      {"--print-config", "steps = 100"}, {"--man-page", ".SH NAME"}, {"--bash-completion", "complete -o filenames"}};
  for (const auto& [word, text] : kTexts) {
    const Ran ran = run_tool({word}, boom);
    EXPECT_EQ(ran.code, 0) << word;
    EXPECT_THAT(ran.out, HasSubstr(text));
    EXPECT_EQ(ran.err, "");
  }
}

TEST(ToolMain, FullDiskUnderStandardOutputIsAnError) {
  for (const bool stream : {false, true}) {
    const auto print = [=] {
      for (int i = 0; i < 10000; ++i) stream ? void(std::cout << "a line\n") : void(std::puts("a line"));
      return Exit::kOk;
    };
    const Ran ran = run_tool({"show"}, print, "/dev/full");
    EXPECT_EQ(ran.code, 74);
    EXPECT_THAT(ran.err, StartsWith("moe-x: error: standard output: cannot write"));
  }
}

TEST(ToolMain, ReaderThatLeavesEndsItQuietly) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  close(ends[0]);
  const Ran ran = run_child([&] {
    dup2(ends[1], STDOUT_FILENO);
    return call({"show"}, [] {
      for (int i = 0; i < 10000; ++i) std::puts("a line");
      return Exit::kOk;
    });
  });
  close(ends[1]);
  EXPECT_EQ(ran.code, 0);
  EXPECT_EQ(ran.err, "");
}

TEST(ToolMain, NoColorOnATerminal) {
  const auto fail = []() -> Exit { throw Error(Exit::kBadInput, "x"); };
  EXPECT_EQ(run_on_terminal([&] { return call({"show", "--no-color"}, fail) - 65; }), "moe-x: error: x\r\n");
}

}  // namespace
}  // namespace moe
