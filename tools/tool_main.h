// What every main() shares: parse, echo, log, catch, exit code.
#pragma once

#include <functional>

#include "lib/base/common_options.h"
#include "lib/base/error.h"

namespace moe {

class World;

// Parses argv into `options`, handles --help, --version, --print-config and the hidden --man-page and
// --bash-completion, opens the log, refuses a device that is not there (69), calls run, prints an Error as
// "moe-train: error: <message>" and "  hint: <hint>", and returns the exit code. Never throws. A closed stdout (| head)
// ends the tool quietly.
int tool_main(int argc, char** argv, Options& options, CommonOptions& common,
              const std::function<Exit(const Invocation&)>& run);

// The same for a tool that runs on the ranks of a job. Options are parsed before MPI starts; ranks_per_node is asked then
// (World::start). Ranks that differ in version or options are refused (World::require_same); --threads 0 becomes
// World::default_threads(). Ranks other than 0 print nothing on stdout and log warnings and errors only. An AgreedError is
// printed by its reporter and ends the job in order; any other exception of one rank is printed with its number and host,
// and ends the whole job at once.
int parallel_tool_main(int argc, char** argv, Options& options, CommonOptions& common,
                       const std::function<int()>& ranks_per_node,
                       const std::function<Exit(const Invocation&, World&)>& run);

}  // namespace moe
