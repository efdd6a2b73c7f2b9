// The log and the progress bar, in a child process whose standard error is a file or a terminal.
#include "lib/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lib/base/error.h"
#include "tests/child.h"
#include "tests/tool_options.h"

namespace moe {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

void log_everything() {
  log_debug("d");
  log_info("i");
  log_warning("w");
  log_error("e");
}

std::string logged_at(LogLevel level, const std::string& file = "") {
  return run_child([&] {
           log_open("moe-x", level, file);
           log_everything();
           return 0;
         })
      .err;
}

TEST(Log, LevelsChooseLines) {
  EXPECT_EQ(logged_at(LogLevel::kQuiet), "moe-x: error: e\n");
  EXPECT_EQ(logged_at(LogLevel::kWarning), "moe-x: warning: w\nmoe-x: error: e\n");
  EXPECT_EQ(logged_at(LogLevel::kInfo), "i\nmoe-x: warning: w\nmoe-x: error: e\n");
  EXPECT_EQ(logged_at(LogLevel::kDebug), "d\ni\nmoe-x: warning: w\nmoe-x: error: e\n");
}

TEST(Log, BeforeItIsOpenedWarningsAreSeen) {
  const Ran ran = run_child([] {
    log_everything();
    return 0;
  });
  EXPECT_EQ(ran.err, "moe: warning: w\nmoe: error: e\n");
  EXPECT_EQ(ran.out, "");
}

TEST(Log, BracesAndPercentArePlainText) {
  const Ran ran = run_child([] {
    log_open("moe-x", LogLevel::kInfo);
    log_info("{} {0} %v %s 75 %");
    return 0;
  });
  EXPECT_EQ(ran.err, "{} {0} %v %s 75 %\n");
}

TEST(Log, FileGetsTheSameLinesWithTimeAndIsAppendedTo) {
  const TextFile file("before\n");
  EXPECT_EQ(logged_at(LogLevel::kQuiet, file.path()), "moe-x: error: e\n");
  const std::string text = contents(file.path());
  EXPECT_THAT(text,
              ::testing::ContainsRegex("^before\n20[-0-9]*T[:.0-9]*Z i\n20.* moe-x: warning: w\n20.* moe-x: error: e\n"));
  EXPECT_THAT(text, Not(HasSubstr("Z d\n")));
}

TEST(Log, FileThatCannotBeOpened) {
  const Ran ran = run_child([] {
    try {
      log_open("moe-x", LogLevel::kInfo, "/dev/null/log");
    } catch (const Error& error) {
      return static_cast<int>(error.code());
    }
    return 0;
  });
  EXPECT_EQ(ran.code, 73);
}

TEST(ProgressBar, NothingOffATerminal) {
  const Ran ran = run_child([] {
    log_open("moe-x", LogLevel::kInfo);
    ProgressBar bar("encode");
    bar.show(0.5, "half");
    return 0;
  });
  EXPECT_EQ(ran.err, "");
}

TEST(ProgressBar, DrawsOnATerminalAndErasesItself) {
  const std::string seen = run_on_terminal([] {
    log_open("moe-x", LogLevel::kInfo);
    ProgressBar bar("encode");
    bar.show(0.5, "half");
    log_info("a line");
    bar.hide();
    return 0;
  });
  EXPECT_EQ(seen, "\r\033[Kencode [############............]  50 %  half\r\033[Ka line\r\n");
}

TEST(ProgressBar, StaysInTheWindowAndInItsRange) {
  const std::string seen = run_on_terminal([] {
    log_open("moe-x", LogLevel::kInfo);
    ProgressBar(std::string("low")).show(std::nan(""), "");
    ProgressBar(std::string("high")).show(7, std::string(500, 'x'));
    return 0;
  });
  EXPECT_THAT(seen, HasSubstr("low [........................]   0 %"));
  EXPECT_THAT(seen, HasSubstr("high [########################] 100 %  xxx"));
  EXPECT_THAT(seen, Not(HasSubstr(std::string(80, 'x'))));
  EXPECT_THAT(seen, ::testing::EndsWith("\r\033[K"));
}

TEST(ProgressBar, QuietToolsHaveNone) {
  EXPECT_EQ(run_on_terminal([] {
              log_open("moe-x", LogLevel::kQuiet);
              ProgressBar(std::string("encode")).show(0.5, "half");
              return 0;
            }),
            "");
}

TEST(Log, ColorOnATerminalUnlessForbidden) {
  const auto warn = [] {
    log_open("moe-x", LogLevel::kInfo);
    log_warning("w");
    return 0;
  };
  EXPECT_EQ(run_on_terminal(warn), "moe-x: \033[1;33mwarning\033[0m: w\r\n");
  Variable forbidden("NO_COLOR", "1");
  EXPECT_EQ(run_on_terminal(warn), "moe-x: warning: w\r\n");
}

}  // namespace
}  // namespace moe
