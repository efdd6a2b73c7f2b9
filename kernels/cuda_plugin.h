// All CUDA code is in one plugin, libmoe_cuda.so, loaded at run time from the folder of the program or ../lib beside it, so
// that one program serves machines with and without CUDA. Not here: anything that includes CUDA (*.cu).
#pragma once

#include <string>

#include "kernels/kernels.h"

namespace moe {

// What the plugin exports, as `const CudaPlugin* moe_cuda_plugin()`.
struct CudaPlugin {
  static constexpr int kVersion = 1;  // of this interface: a plugin of another build is refused
  int version;
  int (*num_devices)(char* text, int size);  // 0: why, in `text`
  const Device* (*open)(int index);          // takes the device for this process; throws std::runtime_error
  const Kernels* (*kernels)();
  void* (*allocate_shared)(std::size_t bytes);  // memory that host and device touch in turns, for tests; nullptr: none
};

struct CudaStatus {
  const CudaPlugin* plugin = nullptr;
  int num_devices = 0;
  std::string text;  // one sentence for people: what was found, or why not
};
// Loaded once. The environment variable MOE_CUDA_PLUGIN names another file, for tests.
const CudaStatus& cuda_status();

}  // namespace moe
