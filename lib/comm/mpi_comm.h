// Ranks that are MPI processes. mpi_comm.cpp is the only file that knows MPI. All calls come from one thread, the one that
// called mpi_start (MPI_THREAD_FUNNELED): the communication lane's.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "lib/comm/comm.h"
#include "lib/comm/watchdog.h"

namespace moe {

// What the waits of all communicators of this process look at. Outlives them.
struct MpiWaits {
  const std::atomic<int>& num_waiting;  // threads that stand still until the lane is done; 0: a wait may sleep
  Watchdog& watchdog;
  std::atomic<int> abort_code{-1};  // 0 or more: the next look ends the job
};

struct MpiWorld {
  std::unique_ptr<Comm> comm;      // all ranks
  std::vector<std::string> hosts;  // of all ranks
  std::vector<int> rank2host;      // numbers of machines: ranks that share memory
};

// Starts MPI. `waits` outlives everything. max_chunk_bytes: longest single message, since MPI counts are ints; 0: 1 GiB, or
// what the environment variable MOE_MPI_CHUNK says (for tests). Error(kUnavailable) if MPI cannot be started.
MpiWorld mpi_start(MpiWaits& waits, std::size_t max_chunk_bytes = 0);
void mpi_end();  // after the last call of the last communicator
[[noreturn]] void mpi_abort(int code);

}  // namespace moe
