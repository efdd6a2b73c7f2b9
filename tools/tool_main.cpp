#include "tools/tool_main.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <iterator>
#include <memory>
#include <new>
#include <system_error>

#include "kernels/cuda_status.h"
#include "kernels/kernels.h"
#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/comm/collectives.h"
#include "lib/comm/mpi_comm.h"

namespace moe {
namespace {

void print(const std::string& text) { std::fwrite(text.data(), 1, text.size(), stdout); }

// True if standard output is a pipe that nobody reads any more (| head).
bool reader_is_gone() {
  pollfd out{STDOUT_FILENO, POLLOUT, 0};
  return poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0;
}

// All that was printed must have arrived: a result on a full disk is an error.
void flush_stdout() {
  std::cout.flush();
  const bool flushed = std::fflush(stdout) == 0;
  const int reason = errno;
  if (flushed && std::ferror(stdout) == 0 && std::cout.good()) return;
  if (reader_is_gone()) return;
  throw Error(Exit::kIo, std::string("standard output: cannot write the result") + (flushed ? "" : ": ") +
                             (flushed ? "" : std::strerror(reason)));
}

void check_common(const CommonOptions& common) {
  if (common.verbose && common.quiet)
    throw Error(Exit::kUsage, "--verbose and --quiet: expected at most one of them, found both");
  if (common.threads < 0)
    throw Error(Exit::kUsage, "--threads: expected 0 or more, found " + std::to_string(common.threads));
  // A wish for kernels that cannot be had must not end in others without a word.
  if (const char* isa = std::getenv("MOE_ISA"); isa != nullptr && cpu_kernels_by_isa(isa) == nullptr)
    throw Error(Exit::kUnavailable,
                std::string("MOE_ISA: expected avx512, avx2 or generic, as far as this processor has them, found ") + isa,
                "unset it: the widest is taken");
  if (common.device == DeviceChoice::kCuda)
    throw Error(Exit::kUnavailable,
                "--device cuda: expected CUDA kernels, found none in this version (" + cuda_status().text + ")",
                "use --device cpu");
}

// Results and progress are the business of rank 0; others say what is wrong.
void open_log(const std::string& tool, const CommonOptions& common, bool is_first_rank) {
  if (!common.color) setenv("NO_COLOR", "1", 1);  // what every library understands
  if (!is_first_rank) return log_open(tool, common.quiet ? LogLevel::kQuiet : LogLevel::kWarning);
  const LogLevel level = common.quiet ? LogLevel::kQuiet : common.verbose ? LogLevel::kDebug : LogLevel::kInfo;
  log_open(tool, level, common.log_file);
}

// What the build asks each tool for. True if that was all.
bool print_for_build(int argc, char** argv, const Options& options) {
  const std::string word = argc == 2 ? argv[1] : "";
  if (word == "--man-page") print(options.man_page());
  if (word == "--bash-completion") print(options.bash_completion());
  return word == "--man-page" || word == "--bash-completion";
}

// Parses and checks; false if what was asked for is printed already and nothing is to be run.
bool prepare(int argc, char** argv, Options& options, CommonOptions& common, bool is_first_rank) {
  log_open(options.tool(), is_first_rank ? LogLevel::kInfo : LogLevel::kWarning);
  if (print_for_build(argc, argv, options)) return false;
  if (!options.parse(argc, argv)) return false;
  open_log(options.tool(), common, is_first_rank);
  if (common.print_config) {
    print(options.config_text());
    return false;
  }
  check_common(common);
  return true;
}

// `who` heads the message: "" or "rank 3 (host h1): ".
Exit report(const Error& error, const std::string& who) {
  const bool quiet_end = error.code() == Exit::kIo && std::ferror(stdout) != 0 && reader_is_gone();
  if (!quiet_end) log_error(who + error.what() + (error.hint().empty() ? "" : "\n  hint: " + error.hint()));
  return error.code();
}

Exit guarded(const std::string& tool, const std::string& who, const std::function<Exit()>& body) {
  try {
    return body();
  } catch (const Error& error) {
    return report(error, who);
  } catch (const std::bad_alloc&) {  // nothing that needs memory from here on
    std::fprintf(stderr, "%s: error: %sout of memory\n  hint: make the batch or the sequences smaller\n", tool.c_str(),
                 who.c_str());
  } catch (const std::exception& error) {
    log_error(who + "internal error: " + error.what());
  } catch (...) {
    log_error(who + "internal error: unknown exception");
  }
  return Exit::kInternal;
}

int finish(const std::string& tool, Exit code) {
  const Exit written = guarded(tool, "", [] {
    flush_stdout();
    return Exit::kOk;
  });
  return static_cast<int>(code == Exit::kOk ? written : code);
}

// Whatever a rank other than the first prints goes nowhere.
void close_stdout() {
  const int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere < 0) return;
  dup2(nowhere, STDOUT_FILENO);
  close(nowhere);
}

// Of a job whose MPI has not started. What is wrong is wrong on all ranks as a rule, and rank 0 says it; that ends the job
// while the others sleep (mpirun takes a second). A rank that still lives then is alone with its failure.
Exit guarded_before_mpi(const std::string& tool, const std::function<Exit()>& body) {
  if (launched_rank() <= 0) return guarded(tool, "", body);
  try {
    return body();
  } catch (...) {
    sleep(3);
    return guarded(tool, "rank " + std::to_string(launched_rank()) + ": ", []() -> Exit { throw; });
  }
}

// Options that may differ from rank to rank.
bool is_own_affair(const std::string& name) {
  const char* const kNames[] = {"threads", "log-file", "verbose", "quiet", "color", "config"};
  return std::find(std::begin(kNames), std::end(kNames), name) != std::end(kNames);
}

std::vector<std::string> handshake_facts(const Options& options) {
  std::vector<std::string> facts{"version=" + version_text() + " " + git_commit()};
  for (const auto& option : options.all())
    if (!is_own_affair(option->name)) facts.push_back("--" + option->name + "=" + option->get());
  return facts;
}

// "rank 3 (host h1), step 17: "
std::string head_of(World& world) {
  if (world.alone()) return "";
  const std::int64_t step = world.watchdog().step();
  return world.comm().name_of(world.rank()) + (step >= 0 ? ", step " + std::to_string(step) : "") + ": ";
}

// A failure that the ranks have not agreed on ends the whole job here.
Exit run_in_job(const std::string& tool, World& world, const std::function<Exit()>& run) {
  bool orderly = false;
  std::string who;
  const Exit code = guarded(tool, who, [&] {
    try {
      const Exit result = run();
      orderly = true;
      return result;
    } catch (const AgreedError& error) {
      orderly = true;
      return world.rank() == error.reporter() ? report(error, "") : error.code();
    } catch (...) {
      who = head_of(world);
      throw;
    }
  });
  if (!orderly && !world.alone()) world.abort(static_cast<int>(code));
  return code;
}

}  // namespace

int tool_main(int argc, char** argv, Options& options, CommonOptions& common,
              const std::function<Exit(const Invocation&)>& run) {
  std::signal(SIGPIPE, SIG_IGN);
  const Exit code = guarded(options.tool(), "", [&] {
    if (!prepare(argc, argv, options, common, true)) return Exit::kOk;
    return run(Invocation{options, {argv, argv + argc}});
  });
  return finish(options.tool(), code);
}

int parallel_tool_main(int argc, char** argv, Options& options, CommonOptions& common,
                       const std::function<int()>& ranks_per_node,
                       const std::function<Exit(const Invocation&, World&)>& run) {
  std::signal(SIGPIPE, SIG_IGN);
  const bool is_first_rank = launched_rank() <= 0;
  if (!is_first_rank) close_stdout();
  std::unique_ptr<World> world;
  Exit code = guarded_before_mpi(options.tool(), [&] {
    if (prepare(argc, argv, options, common, is_first_rank)) world = World::start(ranks_per_node());
    return Exit::kOk;
  });
  if (!world) return finish(options.tool(), code);
  code = run_in_job(options.tool(), *world, [&] {
    if (!world->alone()) world->require_same(handshake_facts(options));
    if (!world->alone() && common.threads == 0) common.threads = world->default_threads();
    return run(Invocation{options, {argv, argv + argc}}, *world);
  });
  return finish(options.tool(), code);  // before MPI ends: a result that could not be written is rank 0's failure
}

}  // namespace moe
