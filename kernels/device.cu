// The CUDA plugin's probe: how many devices, and which.
#include <cuda_runtime.h>

#include <cstdio>

// Writes one sentence into text; returns the number of usable devices.
extern "C" int moe_cuda_probe(char* text, int size) {
  int devices = 0;  // left untouched by the call where there is no driver
  const cudaError_t error = cudaGetDeviceCount(&devices);
  if (error != cudaSuccess || devices == 0) {
    snprintf(text, size, "no CUDA device: %s", error == cudaSuccess ? "none found" : cudaGetErrorString(error));
    return 0;
  }
  cudaDeviceProp properties;
  if (cudaGetDeviceProperties(&properties, 0) != cudaSuccess) return 0;
  snprintf(text, size, "%d CUDA device%s, the first is %s", devices, devices == 1 ? "" : "s", properties.name);
  return devices;
}
