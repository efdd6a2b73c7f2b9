#include "tools/tool_main.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <new>
#include <system_error>

#include "kernels/cuda_plugin.h"
#include "kernels/kernels.h"
#include "lib/base/log.h"
#include "tools/tool_parts.h"

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
                std::string("MOE_ISA: expected amx, avx512, avx2 or generic, as far as this processor has them, found ") + isa,
                "unset it: the widest is taken");
  if (common.device == DeviceChoice::kCuda && !common.dry_run && cuda_status().num_devices == 0)
    throw Error(Exit::kUnavailable, "--device cuda: expected a CUDA device, found " + cuda_status().text,
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

}  // namespace

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
  } catch (const std::bad_alloc& error) {  // nothing that needs memory from here on
    const char* what = std::strcmp(error.what(), std::bad_alloc().what()) == 0 ? "out of memory" : error.what();
    std::fprintf(stderr, "%s: error: %s%s\n  hint: make the batch or the sequences smaller\n", tool.c_str(), who.c_str(),
                 what);
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

int tool_main(int argc, char** argv, Options& options, CommonOptions& common,
              const std::function<Exit(const Invocation&)>& run) {
  std::signal(SIGPIPE, SIG_IGN);
  const Exit code = guarded(options.tool(), "", [&] {
    if (!prepare(argc, argv, options, common, true)) return Exit::kOk;
    return run(Invocation{options, {argv, argv + argc}});
  });
  return finish(options.tool(), code);
}

}  // namespace moe
