// What tool_main and parallel_tool_main are made of. They are two object files, so that a tool that never starts MPI does
// not load it.
#pragma once

#include <functional>
#include <string>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

// Parses, opens the log and checks; false if what was asked for is printed already and nothing is to be run.
bool prepare(int argc, char** argv, Options& options, CommonOptions& common, bool is_first_rank);

// Prints an error; `who` heads the message: "" or "rank 3 (host h1): ". Returns its code.
Exit report(const Error& error, const std::string& who);

// What body returns, or the code of what it threw, printed.
Exit guarded(const std::string& tool, const std::string& who, const std::function<Exit()>& body);

// Flushes standard output; the exit code of the process.
int finish(const std::string& tool, Exit code);

}  // namespace moe
