// Functions of CUDA's driver, found at run time, so that the plugin needs no libcuda to link. Included by kernels/*.cu only.
#pragma once

#include <cuda.h>

#include "kernels/cuda.h"

namespace moe::cuda {

// driver_function<decltype(&cuMemMap)>("cuMemMap"). Throws std::runtime_error if the driver has none.
template <class Function>
Function driver_function(const char* name) {
  constexpr unsigned kVersion = 12000;
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(cudaGetDriverEntryPointByVersion(name, &function, kVersion, cudaEnableDefault, &found), "driver");
  if (found != cudaDriverEntryPointSuccess) throw std::runtime_error(std::string("CUDA: the driver has no ") + name);
  return reinterpret_cast<Function>(function);
}

}  // namespace moe::cuda
