// Whether this program finds its CUDA plugin and a device. All CUDA code is in one plugin, libmoe_cuda.so, loaded at run
// time from the folder of the program or ../lib beside it, so that one program serves machines with and without CUDA.
// The plugin of this version reports devices; it holds no training kernels.
#pragma once

#include <string>

namespace moe {

struct CudaStatus {
  bool plugin_loaded = false;
  int num_devices = 0;
  std::string text;  // one sentence for people: what was found, or why not
};
CudaStatus cuda_status();

}  // namespace moe
