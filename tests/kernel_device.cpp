#include "tests/kernel_device.h"

#include <cstdlib>
#include <string>

#include "kernels/cuda_plugin.h"

namespace moe {

bool tests_cuda() {
  static const bool cuda = [] {
    const char* which = std::getenv("MOE_TEST_KERNELS");
    return which != nullptr && std::string(which) == "cuda";
  }();
  return cuda;
}

bool on_host() { return tests_cuda() && std::string(kernel_device().name) == "stand-in on the host"; }

const Device& kernel_device() {
  if (!tests_cuda()) return cpu_device();
  static const Device* const device = [] {
    const CudaStatus& status = cuda_status();
    if (status.num_devices == 0) throw std::runtime_error("MOE_TEST_KERNELS=cuda: " + status.text);
    return status.plugin->open(0);
  }();
  return *device;
}

std::vector<const Kernels*> all_isas() {
  if (tests_cuda()) {
    kernel_device();
    return {cuda_status().plugin->kernels()};
  }
  std::vector<const Kernels*> list;
  for (const char* isa : {"amx", "avx512", "avx2", "generic"})
    if (const Kernels* k = cpu_kernels_by_isa(isa)) list.push_back(k);
  return list;
}

const Kernels& device_kernels() { return tests_cuda() ? *all_isas().front() : cpu_kernels(); }

}  // namespace moe
