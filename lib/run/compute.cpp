#include "lib/run/compute.h"

#include <algorithm>

#include "kernels/cuda_plugin.h"
#include "lib/base/error.h"
#include "lib/base/log.h"

namespace moe {
namespace {

// Place of this rank among those of its node.
int local_rank(const World& world) {
  const std::vector<int>& nodes = world.rank2node();
  const auto me = nodes.begin() + world.rank();
  return static_cast<int>(std::count(nodes.begin(), me, *me));
}

}  // namespace

Compute choose_compute(const CommonOptions& common, const World& world) {
  if (common.device == DeviceChoice::kCpu) return {cpu_device(), cpu_kernels()};
  const CudaStatus& cuda = cuda_status();
  if (cuda.num_devices == 0) {
    if (common.device == DeviceChoice::kAuto) {
      if (cuda.is_there) log_info("on the CPU: " + cuda.text);
      return {cpu_device(), cpu_kernels()};
    }
    throw Error(Exit::kUnavailable, "--device cuda: expected a CUDA device, found " + cuda.text, "use --device cpu");
  }
  try {
    return {*cuda.plugin->open(local_rank(world) % cuda.num_devices), *cuda.plugin->kernels()};
  } catch (const std::runtime_error& e) {
    throw Error(Exit::kUnavailable, std::string("--device: ") + e.what(), "use --device cpu");
  }
}

void show_ranges(const Compute& compute, World& world) {
  if (compute.on_cpu()) return;
  world.trace().show_on({.push = cuda_status().plugin->push_range, .pop = cuda_status().plugin->pop_range});
}

void need_cpu(const Compute& compute, const std::string& what) {
  if (!compute.on_cpu())
    throw Error(Exit::kUnavailable, what + ": expected --device cpu, found " + compute.device.name, "use --device cpu");
}

}  // namespace moe
