// Jobs of four ranks that a fault strikes at operation 1, 2, ... of one rank. Each is a child process whose ranks are
// threads, so that it can be killed. MOE_FAULT_STRIDE=N takes every N-th operation, 1 all of them (minutes); the default
// takes others for each kind of fault and each rank. Not here: what must hold afterwards.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <functional>

#include "lib/base/error.h"
#include "lib/comm/thread_comm.h"
#include "lib/comm/world.h"
#include "lib/io/fault.h"
#include "lib/io/files.h"

namespace moe {

constexpr int kFaultRanks = 4;

// Exit code of a job under MOE_FAULT=fault, or -signal. One that hangs ends by SIGALRM.
inline int fault_job(const std::string& fault, const std::function<void(World&)>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::alarm(60);
    ::setenv("MOE_FAULT", fault.c_str(), 1);
    try {
      run_thread_ranks(kFaultRanks, [&](std::unique_ptr<Comm> comm) {
        omp_set_num_threads(1);
        World world(std::move(comm), std::vector<int>(kFaultRanks, 0));
        set_fault_rank(world.rank());
        body(world);
      });
      ::_exit(0);
    } catch (const Error& e) {
      ::_exit(static_cast<int>(e.code()));
    }
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

// Strikes operation 1, 2, ... of a rank: run(fault plan) does a job, judges what is left and returns its exit code, which
// must be that of the fault, or 0. Ends with a job that no fault struck; returns the number of operations.
inline int strike_operations(const std::string& log, const std::string& error, int rank, int default_stride,
                             const std::function<int(const std::string& fault)>& run) {
  const char* const text = std::getenv("MOE_FAULT_STRIDE");
  const int stride = std::max(1, text ? std::atoi(text) : default_stride);
  for (int n = 1 + (7 * rank + 11 * static_cast<int>(error[1])) % stride;; n += stride) {
    SCOPED_TRACE(error + " at operation " + std::to_string(n) + " of rank " + std::to_string(rank));
    std::filesystem::remove(log);
    const int code = run("err=" + error + ",n=" + std::to_string(n) + ",rank=" + std::to_string(rank) + ",log=" + log);
    const bool struck = read_text_file(log, 1 << 24).find(" strikes ") != std::string::npos;
    EXPECT_TRUE(code == 0 || (struck && code == (error == "kill" ? -SIGKILL : 74))) << code;
    if (!struck || ::testing::Test::HasFailure()) return n - 1;
  }
}

}  // namespace moe
