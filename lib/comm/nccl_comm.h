// Messages between GPUs over NCCL, in the order of a stream. Beside each group stands one of hosts, for what starts it. A
// batch is one NCCL group: start() puts it into the stream, wait() looks for errors of NCCL and for its end. What the
// watchdog or an error ends is told with the log of the last batches; then the communicator is aborted, which has a deadline
// too. One communicator serves a dimension of the mesh, both levels of dispatch in it: a level is a choice of peers. All
// communicators of a rank use one stream, so they cannot wait for each other in a circle.
// More than Comm asks of a caller: batches of a group end in the order of their start, so none may need a later one of the
// same rank; sizes that differ between sender and receiver are not noticed. Not here: NCCL itself (kernels/nccl_comm.cu),
// memory that goes through the host (staged_comm.h).
#pragma once

#include <memory>
#include <string>

#include "kernels/device.h"
#include "lib/comm/batch_log.h"
#include "lib/comm/comm.h"
#include "lib/comm/watchdog.h"

namespace moe {

// What all communicators of a rank look at. Outlives them.
struct NcclWaits {
  Watchdog& watchdog;
  int job_rank = 0;           // of the whole job
  double open_seconds = 300;  // for all ranks of a group to come and connect
  double abort_seconds = 10;  // for NCCL to give up after an error; then the process ends (124)
  BatchLog log = {};
  bool failed = false;  // what is open is aborted, not closed
};

// "": NCCL can be used here; else one sentence.
std::string why_no_nccl();

// A collective call of the ranks of `host`; by the thread that makes all calls. `name`: of the group, for messages. host,
// stream, waits: outlive it. Error(kUnavailable) if NCCL fails.
std::unique_ptr<Comm> make_nccl_comm(const std::string& name, Comm& host, Stream& stream, NcclWaits& waits);

}  // namespace moe
