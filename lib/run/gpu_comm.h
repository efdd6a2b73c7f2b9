// Which way between GPUs a run takes: --gpu-comm, as far as it is there. Not here: the ways (lib/comm/nccl_comm.h,
// staged_comm.h).
#pragma once

#include <string>
#include <vector>

#include "lib/comm/world.h"
#include "lib/model/mesh_context.h"

namespace moe {

struct RankGpu {
  std::string address;  // of its GPU in the whole job: host and place in it
  std::string no_nccl;  // why NCCL cannot be used there; "": it can
};
// NCCL needs a GPU for each rank, and itself on every rank. Error(kUnavailable) where it was asked for and cannot be.
GpuComm gpu_comm_for(GpuComm wanted, const std::vector<RankGpu>& ranks);

// A collective call. On the CPU, and for auto in one process, kAuto; AgreedError(kUnavailable) if NCCL was asked for there.
// Says when auto goes without NCCL though every rank has a GPU.
GpuComm choose_gpu_comm(GpuComm wanted, World& world, const Device& device);

// ", GPUs over NCCL", ", GPUs staged through the host", "" for kAuto.
std::string gpu_comm_text(GpuComm chosen);

}  // namespace moe
