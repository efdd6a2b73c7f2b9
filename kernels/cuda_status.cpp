#include "kernels/cuda_status.h"

#include <dlfcn.h>
#include <unistd.h>

#include <climits>

namespace moe {
namespace {

std::string program_directory() {
  char path[PATH_MAX];
  const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
  const std::string program(path, n > 0 ? static_cast<std::size_t>(n) : 0);
  return program.substr(0, program.find_last_of('/') + 1);
}

void* load_plugin() {
  const std::string here = program_directory();
  for (const std::string& folder : {here, here + "../lib/", here + "../kernels/"})
    if (void* plugin = dlopen((folder + "libmoe_cuda.so").c_str(), RTLD_NOW | RTLD_LOCAL)) return plugin;
  return nullptr;
}

}  // namespace

CudaStatus cuda_status() {
  void* plugin = load_plugin();
  if (!plugin) return {.text = "no CUDA plugin (libmoe_cuda.so) beside this program"};
  auto* probe = reinterpret_cast<int (*)(char*, int)>(dlsym(plugin, "moe_cuda_probe"));
  if (!probe) return {.text = "libmoe_cuda.so is of another version"};
  char text[256] = "";
  const int devices = probe(text, sizeof text);
  return {.plugin_loaded = true, .num_devices = devices, .text = text};
}

}  // namespace moe
