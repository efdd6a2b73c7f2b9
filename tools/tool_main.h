// What every main() shares: parse, echo, log, catch, exit code.
#pragma once

#include <functional>
#include <string>

#include "lib/base/options.h"

namespace moe {

// Options that every tool has (DESIGN 8).
struct CommonOptions {
  bool verbose = false, quiet = false, dry_run = false, force = false, print_config = false, no_color = false;
  std::string json;         // FILE or - : the result as JSON
  std::string log_file;
  std::uint64_t seed = 1337;
  int threads = 0;          // 0 = as many as this process may use
  int device = 0;           // 0 cpu, 1 cuda, 2 auto
};

}  // namespace moe
