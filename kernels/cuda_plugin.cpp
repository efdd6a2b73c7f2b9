#include "kernels/cuda_plugin.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <vector>

namespace moe {
namespace {

std::string program_directory() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  const std::string program(path, n > 0 ? static_cast<std::size_t>(n) : 0);
  return program.substr(0, program.find_last_of('/') + 1);
}

std::vector<std::string> candidates() {
  if (const char* asked = std::getenv("MOE_CUDA_PLUGIN")) return {asked};
  const std::string here = program_directory(), name = "libmoe_cuda.so";
  return {here + name, here + "../lib/" + name, here + "../kernels/" + name};
}

CudaStatus look() {
  void* library = nullptr;
  bool is_there = false;
  std::string text = "no CUDA plugin (libmoe_cuda.so) beside this program";
  for (const std::string& path : candidates()) {
    const bool exists = access(path.c_str(), R_OK) == 0;
    is_there = is_there || exists;
    if (library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); library != nullptr) break;
    if (exists) text = std::string("the CUDA plugin cannot be loaded: ") + dlerror();  // a library of CUDA is missing
  }
  if (!library) return {.is_there = is_there, .text = text};
  auto* entry = reinterpret_cast<const CudaPlugin* (*)()>(dlsym(library, "moe_cuda_plugin"));
  if (!entry || entry()->version != CudaPlugin::kVersion)
    return {.is_there = true, .text = "libmoe_cuda.so is of another version"};
  char why[256] = "";
  const int devices = entry()->num_devices(why, sizeof why);
  const std::string found = std::to_string(devices) + (devices == 1 ? " CUDA device" : " CUDA devices");
  return {.plugin = entry(), .num_devices = devices, .is_there = true, .text = devices > 0 ? found : why};
}

}  // namespace

const CudaStatus& cuda_status() {
  static const CudaStatus status = look();
  return status;
}

}  // namespace moe
