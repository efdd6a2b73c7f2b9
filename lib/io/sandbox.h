// Runs a function that reads files of strangers in a child process with little memory, little time and no way to write files
// or start programs, so that a crash inside a library is an error of the input. Not here: what is read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace moe {

struct SandboxLimits {
  std::int64_t memory_bytes = std::int64_t{2} << 30;  // beside what the process has mapped already
  int cpu_seconds = 60;
};

// What `body` returns in the child, or the Error that it throws there. Error 65 if the child crashes or runs into a limit.
std::string run_in_sandbox(const SandboxLimits& limits, const std::function<std::string()>& body);

}  // namespace moe
