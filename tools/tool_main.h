// What every main() shares: parse, echo, log, catch, exit code.
#pragma once

#include <functional>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

// Parses argv into `options`, handles --help, --version, --print-config and the hidden --man-page and
// --bash-completion, opens the log, refuses a device that is not there (69), calls run, prints an Error as
// "moe-train: error: <message>" and "  hint: <hint>", and returns the exit code. Never throws. A closed stdout (| head)
// ends the tool quietly.
int tool_main(int argc, char** argv, Options& options, CommonOptions& common,
              const std::function<Exit(const Invocation&)>& run);

}  // namespace moe
