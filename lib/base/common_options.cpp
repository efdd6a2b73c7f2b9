#include "lib/base/common_options.h"

namespace moe {

void add_common_options(Options& options, CommonOptions& common) {
  options.group("Options of every tool");
  options.add("threads", common.threads, "CPU threads; 0 takes every processor that this process may use");
  options.add("device", common.device,
              "where to compute; auto takes CUDA where its plugin and a GPU are found, else the CPU",
              {"cpu", "cuda", "auto"});
  options.add("seed", common.seed, "seed of all random numbers");
  options.add("dry-run", common.dry_run, "say what would be done, write nothing");
  options.add("force", common.force, "overwrite existing output");
  options.add("json", common.json, "write the result as JSON; - is standard output").value = "FILE|-";
  options.add("config", common.config, "read options from lines name = value").value = "FILE";
  options.add("print-config", common.print_config, "print every option, its value and where it comes from, and stop");
  options.add("verbose", common.verbose, "log more").letter = 'v';
  options.add("quiet", common.quiet, "log errors only").letter = 'q';
  options.add("log-file", common.log_file, "write the log to a file too").value = "FILE";
  options.add("color", common.color, "colour on a terminal");
}

}  // namespace moe
