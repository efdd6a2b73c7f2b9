// Messages of memory of a GPU through memory of the host: ranks that share a GPU, and clusters whose network does not read
// GPUs. What is sent is copied to the host when start() returns; what is received is copied to the device, in the order of
// the stream, by wait(). Not here: GPUs that send to each other (kernels/nccl_comm.cu).
#pragma once

#include <memory>

#include "kernels/device.h"
#include "lib/comm/comm.h"

namespace moe {

// host, stream: outlive it. All calls are made by the thread whose stream this is.
std::unique_ptr<Comm> make_staged_comm(Comm& host, Stream& stream);

}  // namespace moe
