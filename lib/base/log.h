// The log of a tool: stderr, one line a message, synchronous (spdlog). stdout belongs to results.
#pragma once

#include <chrono>
#include <string>

namespace moe {

enum class LogLevel { kQuiet, kWarning, kInfo, kDebug };

// `tool` heads every line of warnings and errors. kQuiet lets errors through only. Called by tool_main; before that,
// warnings and errors are printed in the name of moe. A file gets the same lines with the time, kInfo at least, and is
// appended to; Error(kCannotCreate) if it cannot be opened.
void log_open(const std::string& tool, LogLevel level, const std::string& file = "");
void log_debug(const std::string& line);
void log_info(const std::string& line);
void log_warning(const std::string& line);
void log_error(const std::string& line);

// True if stderr is a terminal, NO_COLOR is not set and colour was not forbidden.
bool log_is_terminal();

// A progress bar on a terminal; elsewhere nothing (callers print a line now and then instead). One at a time; a log line
// takes it away, the next show() draws it again below.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar();                                       // takes the bar away
  void show(double fraction, const std::string& text);  // as often as one likes: drawn ten times a second
  void hide();

 private:
  std::string label_;
  bool visible_ = false;
  std::chrono::steady_clock::time_point drawn_at_{};
};

}  // namespace moe
