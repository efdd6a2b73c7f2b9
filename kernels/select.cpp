// Which CPU kernels this processor can run. Compiled once, for the oldest processor.
#include <cstdlib>
#include <vector>

#include "kernels/bits.h"
#include "kernels/kernels.h"

namespace moe {

#ifdef MOE_HAVE_X86_ISAS
namespace avx512 {
Kernels all_kernels();
Kernels amx_kernels();
bool has_amx();
extern const BitKernels bits_cpu;
}
namespace avx2 {
Kernels all_kernels();
extern const BitKernels bits_cpu;
}
#endif
namespace generic {
Kernels all_kernels();
extern const BitKernels bits_cpu;
}

namespace {

// Widest first.
const std::vector<Kernels>& usable_kernels() {
  static const std::vector<Kernels> list = [] {
    std::vector<Kernels> usable;
#ifdef MOE_HAVE_X86_ISAS
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      if (avx512::has_amx()) usable.push_back(avx512::amx_kernels());
      usable.push_back(avx512::all_kernels());
    }
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

const BitKernels* cpu_bits_by_isa(const std::string& isa) {
  if (cpu_kernels_by_isa(isa) == nullptr) return nullptr;
#ifdef MOE_HAVE_X86_ISAS
  if (isa == "avx512" || isa == "amx") return &avx512::bits_cpu;
  if (isa == "avx2") return &avx2::bits_cpu;
#endif
  return &generic::bits_cpu;
}

const BitKernels& cpu_bits() {
  static const BitKernels& bits = *cpu_bits_by_isa(cpu_kernels().isa);
  return bits;
}

}  // namespace moe
