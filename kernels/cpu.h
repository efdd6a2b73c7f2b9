// The CPU kernels of one instruction set, by noun. Each is defined in the file of its name; table.cpp collects them.
// Included by kernels/*.cpp only.
#pragma once

#include "kernels/kernels.h"

namespace moe::MOE_ISA {

extern const GemmKernels gemm_cpu;
extern const GroupedGemmKernels grouped_gemm_cpu;
extern const BiasKernels bias_cpu;
extern const RmsNormKernels rmsnorm_cpu;
extern const RopeKernels rope_cpu;
extern const LatentKernels latent_cpu;
extern const AttentionKernels attention_cpu;
extern const CacheAttentionKernels cache_attention_cpu;
extern const SwigluKernels swiglu_cpu;
extern const RouterKernels router_cpu;
extern const PermuteKernels permute_cpu;
extern const EmbeddingKernels embedding_cpu;
extern const CrossEntropyKernels cross_entropy_cpu;
extern const ElementKernels elements_cpu;
extern const AdamWKernels adamw_cpu;
extern const MuonKernels muon_cpu;
double register_peak_gflops_cpu(Stream& stream, DType dtype, double seconds);

// Of AVX-512 alone: *_amx.cpp, for processors with matrix units, and the table with them in it.
bool has_amx();
extern const GemmKernels gemm_amx;
extern const GroupedGemmKernels grouped_gemm_amx;
double register_peak_gflops_amx(Stream& stream, DType dtype, double seconds);
Kernels amx_kernels();

// The table of all of them. A function: constants of other files may only be copied once the program runs.
Kernels all_kernels();

}  // namespace moe::MOE_ISA
