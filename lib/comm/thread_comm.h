// Ranks that are threads of one process: for tests, and for looking at a mesh without MPI. Messages are copied once, by
// whoever comes second.
#pragma once

#include <functional>

#include "lib/comm/comm.h"

namespace moe {

// Runs body(comm) on `num_ranks` threads. If one throws, the others' calls throw too, and the first error is thrown here.
void run_thread_ranks(int num_ranks, const std::function<void(std::unique_ptr<Comm>)>& body);

}  // namespace moe
