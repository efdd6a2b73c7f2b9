#include "lib/run/gpu_comm.h"

#include <map>

#include "kernels/cuda_plugin.h"
#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/comm/collectives.h"

namespace moe {
namespace {

// Why these ranks cannot use NCCL; "": they can.
std::string obstacle(const std::vector<RankGpu>& ranks) {
  std::map<std::string, std::size_t> address2rank;
  for (std::size_t r = 0; r < ranks.size(); ++r)
    if (const auto [first, fresh] = address2rank.try_emplace(ranks[r].address, r); !fresh)
      return "ranks " + std::to_string(first->second) + " and " + std::to_string(r) + " on one GPU";
  for (std::size_t r = 0; r < ranks.size(); ++r)
    if (!ranks[r].no_nccl.empty()) return "on rank " + std::to_string(r) + ": " + ranks[r].no_nccl;
  return "";
}

bool share_gpus(const std::vector<RankGpu>& ranks) {
  std::map<std::string, int> seen;
  for (const RankGpu& rank : ranks)
    if (++seen[rank.address] > 1) return true;
  return false;
}

RankGpu own_gpu(const World& world) {
  char address[64] = "";
  cuda_status().plugin->comms.device_address(address, sizeof address);
  return {world.host() + " " + address, why_no_nccl()};
}

std::vector<RankGpu> gather_gpus(World& world) {
  const RankGpu mine = own_gpu(world);
  std::vector<std::string> all;
  world.lane().call("gpus", [&] { all = all_gather(world.comm(), "gpus", mine.address + "\n" + mine.no_nccl); });
  std::vector<RankGpu> ranks;
  for (const std::string& text : all) ranks.push_back({text.substr(0, text.find('\n')), text.substr(text.find('\n') + 1)});
  return ranks;
}

}  // namespace

GpuComm gpu_comm_for(GpuComm wanted, const std::vector<RankGpu>& ranks) {
  if (wanted == GpuComm::kStaged) return wanted;
  const std::string found = obstacle(ranks);
  if (found.empty()) return GpuComm::kNccl;
  if (wanted == GpuComm::kNccl)
    throw Error(Exit::kUnavailable, "--gpu-comm nccl: expected NCCL and a GPU for each rank, found " + found,
                "use --gpu-comm staged; MOE_NCCL_LIBRARY names a libnccl.so.2 that is not where the loader looks");
  return GpuComm::kStaged;
}

std::string gpu_comm_text(GpuComm chosen) {
  const char* const kTexts[] = {"", ", GPUs over NCCL", ", GPUs staged through the host"};
  return kTexts[static_cast<int>(chosen)];
}

GpuComm choose_gpu_comm(GpuComm wanted, World& world, const Device& device) {
  if (device.kind == DeviceKind::kCpu) {
    if (wanted == GpuComm::kNccl)
      throw AgreedError(Exit::kUnavailable, "--gpu-comm nccl: expected --device cuda, found cpu", "leave --gpu-comm out", 0);
    return GpuComm::kAuto;
  }
  if (world.alone() && wanted == GpuComm::kAuto) return wanted;  // there is nobody to reach
  const std::vector<RankGpu> ranks = gather_gpus(world);
  GpuComm chosen = wanted;
  world.agree([&] { chosen = gpu_comm_for(wanted, ranks); });
  if (wanted == GpuComm::kAuto && chosen == GpuComm::kStaged && !share_gpus(ranks))
    log_info("without NCCL, " + obstacle(ranks));
  return chosen;
}

}  // namespace moe
