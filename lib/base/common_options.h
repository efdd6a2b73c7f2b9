// Options that every tool has (DESIGN 8), and how a tool was called.
#pragma once

#include <string>
#include <vector>

#include "lib/base/options.h"

namespace moe {

enum class DeviceChoice { kCpu, kCuda, kAuto };

struct CommonOptions {
  bool verbose = false, quiet = false;
  bool dry_run = false;       // say what would be done, write nothing
  bool force = false;         // overwrite existing output
  bool print_config = false;  // print every option, its value and where it came from, and stop
  bool color = true;          // --no-color
  std::string config;         // configuration file: "name = value" lines
  std::string json;           // FILE or - : the result as JSON
  std::string log_file;
  std::uint64_t seed = 1337;
  int threads = 0;  // 0 = as many processors as this process may use
  DeviceChoice device = DeviceChoice::kAuto;
};
void add_common_options(Options& options, CommonOptions& common);

// What a library call of lib/run needs to know of its caller, for provenance.
struct Invocation {
  const Options& options;
  std::vector<std::string> argv;
};

}  // namespace moe
