// All CPU kernels of one instruction set.
#include "kernels/cpu.h"

#define MOE_TEXT_(x) #x
#define MOE_TEXT(x) MOE_TEXT_(x)

namespace moe::MOE_ISA {

Kernels all_kernels() {
  return {
      .isa = MOE_TEXT(MOE_ISA),
      .gemm = gemm_cpu,
      .grouped_gemm = grouped_gemm_cpu,
      .bias = bias_cpu,
      .rmsnorm = rmsnorm_cpu,
      .rope = rope_cpu,
      .latent = latent_cpu,
      .attention = attention_cpu,
      .cache_attention = cache_attention_cpu,
      .swiglu = swiglu_cpu,
      .router = router_cpu,
      .permute = permute_cpu,
      .embedding = embedding_cpu,
      .cross_entropy = cross_entropy_cpu,
      .elements = elements_cpu,
      .adamw = adamw_cpu,
      .muon = muon_cpu,
      .register_peak_gflops = register_peak_gflops_cpu,
  };
}

}  // namespace moe::MOE_ISA
