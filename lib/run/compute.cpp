#include "lib/run/compute.h"

#include <algorithm>
#include <optional>
#include <span>

#include "kernels/cuda_plugin.h"
#include "lib/base/error.h"
#include "lib/base/log.h"
#include "lib/comm/collectives.h"

namespace moe {
namespace {

// Place of this rank among those of its node.
int local_rank(const World& world) {
  const std::vector<int>& nodes = world.rank2node();
  const auto me = nodes.begin() + world.rank();
  return static_cast<int>(std::count(nodes.begin(), me, *me));
}

// What this rank finds.
Compute own_compute(const CommonOptions& common, const World& world) {
  if (common.device == DeviceChoice::kCpu) return {cpu_device(), cpu_kernels()};
  const CudaStatus& cuda = cuda_status();
  if (cuda.num_devices == 0) {
    if (common.device == DeviceChoice::kAuto || common.dry_run) {
      if (cuda.is_there || common.device == DeviceChoice::kCuda) log_info("on the CPU: " + cuda.text);
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

// A GPU and a CPU would not understand each other's messages.
void need_one_kind(const Compute& mine, World& world) {
  std::int64_t num_gpus = mine.on_cpu() ? 0 : 1;
  world.lane().call("devices", [&] { all_reduce_sum(world.comm(), "devices", std::span(&num_gpus, 1)); });
  world.agree([&] {
    if (mine.on_cpu() && num_gpus > 0)
      throw Error(Exit::kUnavailable,
                  "--device auto: expected a CUDA device, which " + std::to_string(num_gpus) + " of " +
                      std::to_string(world.size()) + " ranks have, found " + cuda_status().text,
                  "--device cpu computes on the CPUs of all");
  });
}

}  // namespace

Compute choose_compute(const CommonOptions& common, World& world) {
  std::optional<Compute> mine;
  world.agree([&] { mine.emplace(own_compute(common, world)); });
  if (!world.alone()) need_one_kind(*mine, world);
  return *mine;
}

void show_ranges(const Compute& compute, World& world) {
  if (compute.on_cpu()) return;
  world.trace().show_on({.push = cuda_status().plugin->push_range, .pop = cuda_status().plugin->pop_range});
}

}  // namespace moe
