// Exit codes that all tools share, and the one exception that carries one. An error is one line: the thing, what was
// expected, what was found, and a hint. Not here: how the line is printed (tools/tool_main.h).
#pragma once

#include <stdexcept>
#include <string>

namespace moe {

enum class Exit : int {
  kOk = 0,
  kInternal = 1,       // a bug of ours
  kUsage = 2,          // command line, environment or configuration file
  kCheckFailed = 3,    // a check that was asked for said no
  kBadInput = 65,      // a file that is not what it should be
  kNoInput = 66,       // a file that is not there
  kUnavailable = 69,   // device or library that this machine or build does not have
  kCannotCreate = 73,  // output exists or cannot be made
  kIo = 74,            // reading or writing failed
  kStoppedEarly = 75,  // stopped early with a saved checkpoint: requeue
  kNumeric = 76,       // loss or gradient not finite
  kWatchdog = 124,     // something hung
};

class Error : public std::runtime_error {
 public:
  // message: "<thing>: expected <this>, found <that>"; hint: what the reader can do, may be empty.
  Error(Exit code, const std::string& message, std::string hint = "")
      : std::runtime_error(message), code_(code), hint_(std::move(hint)) {}
  Exit code() const { return code_; }
  const std::string& hint() const { return hint_; }

 private:
  Exit code_;
  std::string hint_;
};

}  // namespace moe
