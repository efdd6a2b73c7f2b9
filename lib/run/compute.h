// What a tool computes on: --device, as far as it is there. Not here: what a device is (kernels/device.h).
#pragma once

#include "kernels/kernels.h"
#include "lib/base/common_options.h"
#include "lib/comm/world.h"

namespace moe {

struct Compute {
  const Device& device;
  const Kernels& kernels;
  bool on_cpu() const { return device.kind == DeviceKind::kCpu; }
};
// auto: CUDA where its plugin finds a device, else the CPU. Ranks of a node take its devices in turn, and share them where
// there are fewer. Error(kUnavailable) for cuda that is not there (but for a dry run, which takes the CPU then), and where
// some ranks have one and others have none. A collective call.
Compute choose_compute(const CommonOptions& common, World& world);
// A stream of it, with --threads.
inline Stream compute_stream(const Compute& compute, const CommonOptions& common) {
  return Stream(compute.device, common.threads);
}
// What the job traces is shown to profilers of the device too (NVTX). Before the first span.
void show_ranges(const Compute& compute, World& world);

}  // namespace moe
