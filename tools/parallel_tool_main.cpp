// The main of a tool on the ranks of a job: who prints what, and how failures end it.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <iterator>
#include <memory>

#include "lib/base/launcher.h"
#include "lib/base/provenance.h"
#include "lib/comm/collectives.h"
#include "lib/comm/world.h"
#include "tools/tool_main.h"
#include "tools/tool_parts.h"

namespace moe {
namespace {

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
