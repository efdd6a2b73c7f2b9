// Which CPU kernels this processor can run. Compiled once, for the oldest processor.
#include <cstdlib>
#include <vector>

#include "kernels/kernels.h"

namespace moe {

#ifdef MOE_HAVE_X86_ISAS
namespace avx512 {
Kernels all_kernels();
}
namespace avx2 {
Kernels all_kernels();
}
#endif
namespace generic {
Kernels all_kernels();
}

namespace {

// Widest first.
const std::vector<Kernels>& usable_kernels() {
  static const std::vector<Kernels> list = [] {
    std::vector<Kernels> usable;
#ifdef MOE_HAVE_X86_ISAS
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      usable.push_back(avx512::all_kernels());
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
      usable.push_back(avx2::all_kernels());
#endif
    usable.push_back(generic::all_kernels());
    return usable;
  }();
  return list;
}

}  // namespace

const Kernels* cpu_kernels_by_isa(const std::string& isa) {
  for (const Kernels& k : usable_kernels())
    if (isa == k.isa) return &k;
  return nullptr;
}

const Kernels& cpu_kernels() {
  if (const char* isa = std::getenv("MOE_ISA"))
    if (const Kernels* k = cpu_kernels_by_isa(isa)) return *k;
  return usable_kernels().front();
}

}  // namespace moe
