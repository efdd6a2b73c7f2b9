// The only file that knows spdlog. Synchronous: a line is out before the next step begins. Not for signal handlers.
#include "lib/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "lib/base/error.h"

namespace moe {
namespace {

constexpr const char* kEraseLine = "\r\033[K";

// Whether a bar is on the screen that a log line must erase first.
std::atomic<bool>& bar_on_screen() {
  static std::atomic<bool> on{false};
  return on;
}

void erase_bar() {
  if (bar_on_screen().exchange(false)) std::fputs(kEraseLine, stderr);
}

std::shared_ptr<spdlog::sinks::sink> terminal_sink(spdlog::level::level_enum level) {
  auto sink = std::make_shared<spdlog::sinks::stderr_sink_mt>();
  sink->set_level(level);
  sink->set_pattern("%v");
  return sink;
}

std::shared_ptr<spdlog::sinks::sink> file_sink(const std::string& file, spdlog::level::level_enum level) {
  try {
    auto sink = std::make_shared<spdlog::sinks::basic_file_sink_mt>(file);
    sink->set_level(level);
    auto utc = std::make_unique<spdlog::pattern_formatter>("%Y-%m-%dT%H:%M:%S.%eZ %v", spdlog::pattern_time_type::utc);
    sink->set_formatter(std::move(utc));
    return sink;
  } catch (const spdlog::spdlog_ex& error) {
    throw Error(Exit::kCannotCreate, file + ": cannot open the log file: " + error.what());
  }
}

std::unique_ptr<spdlog::logger> make_logger(const std::string& tool, spdlog::level::level_enum level,
                                            const std::string& file) {
  auto logger = std::make_unique<spdlog::logger>(tool);
  logger->sinks().push_back(terminal_sink(level));
  const auto file_level = std::min(level, spdlog::level::info);
  if (!file.empty()) logger->sinks().push_back(file_sink(file, file_level));
  logger->set_level(file.empty() ? level : file_level);
  logger->flush_on(spdlog::level::trace);
  return logger;
}

// The one logger of the process; made anew by log_open.
std::unique_ptr<spdlog::logger>& logger() {
  static std::unique_ptr<spdlog::logger> one = make_logger("moe", spdlog::level::warn, "");
  return one;
}

spdlog::level::level_enum spdlog_level(LogLevel level) {
  switch (level) {
    case LogLevel::kQuiet:
      return spdlog::level::err;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kInfo:
      return spdlog::level::info;
    default:
      return spdlog::level::debug;
  }
}

void write_line(spdlog::level::level_enum level, const std::string& line) {
  if (!logger()->should_log(level)) return;
  erase_bar();
  logger()->log(level, line);
}

// The kind of line in colour on a terminal that wants it; plain where a log file gets the same line.
std::string headed(const char* kind, const char* color, const std::string& line) {
  const bool colored = log_is_terminal() && logger()->sinks().size() == 1;
  const std::string word = colored ? std::string(color) + kind + "\033[0m" : kind;
  return logger()->name() + ": " + word + ": " + line;
}

int terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

// label [######......] 42 % text, cut to the width of the terminal.
std::string drawn(const std::string& label, double fraction, const std::string& text) {
  constexpr int kCells = 24;
  const double part = fraction >= 0 ? std::min(fraction, 1.0) : 0;
  const auto filled = static_cast<std::size_t>(part * kCells);
  char percent[16];
  std::snprintf(percent, sizeof percent, "%3d %%", static_cast<int>(part * 100));
  const std::string line =
      label + " [" + std::string(filled, '#') + std::string(kCells - filled, '.') + "] " + percent + "  " + text;
  return line.substr(0, static_cast<std::size_t>(terminal_columns() - 1));
}

}  // namespace

void log_open(const std::string& tool, LogLevel level, const std::string& file) {
  logger() = make_logger(tool, spdlog_level(level), file);
}

void log_debug(const std::string& line) { write_line(spdlog::level::debug, line); }
void log_info(const std::string& line) { write_line(spdlog::level::info, line); }
void log_warning(const std::string& line) { write_line(spdlog::level::warn, headed("warning", "\033[1;33m", line)); }
void log_error(const std::string& line) { write_line(spdlog::level::err, headed("error", "\033[1;31m", line)); }

bool log_is_terminal() {
  const char* forbidden = std::getenv("NO_COLOR");
  return isatty(STDERR_FILENO) && !(forbidden && *forbidden);
}

ProgressBar::ProgressBar(std::string label) : label_(std::move(label)) {}
ProgressBar::~ProgressBar() { hide(); }

void ProgressBar::show(double fraction, const std::string& text) {
  const auto now = std::chrono::steady_clock::now();
  if (!isatty(STDERR_FILENO) || !logger()->should_log(spdlog::level::info)) return;
  if (visible_ && now - drawn_at_ < std::chrono::milliseconds(100)) return;
  std::fputs((kEraseLine + drawn(label_, fraction, text)).c_str(), stderr);
  std::fflush(stderr);
  visible_ = true;
  bar_on_screen() = true;
  drawn_at_ = now;
}

void ProgressBar::hide() {
  if (visible_) erase_bar();
  visible_ = false;
}

}  // namespace moe
