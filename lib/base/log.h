// The log of a tool: stderr, one line a message, synchronous (spdlog). stdout belongs to results.
#pragma once

#include <string>

namespace moe {

enum class LogLevel { kQuiet, kWarning, kInfo, kDebug };

// `tool` heads every line of warnings and errors. Called once by tool_main.
void log_open(const std::string& tool, LogLevel level, const std::string& file = "");
void log_debug(const std::string& line);
void log_info(const std::string& line);
void log_warning(const std::string& line);
void log_error(const std::string& line);

// True if stderr is a terminal, NO_COLOR is not set and colour was not forbidden.
bool log_is_terminal();

// A progress bar on a terminal; elsewhere nothing (callers print a line now and then instead).
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar();  // takes the bar away
  void show(double fraction, const std::string& text);
  void hide();

 private:
  std::string label_;
  bool visible_ = false;
};

}  // namespace moe
