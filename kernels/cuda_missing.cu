#include "kernels/cuda.h"
namespace moe::cuda {
<<<<<<< HEAD
const GemmKernels gemm_cuda = {};
const GroupedGemmKernels grouped_gemm_cuda = {};
<<<<<<< HEAD
const AttentionKernels attention_cuda = {};
const CacheAttentionKernels cache_attention_cuda = {};
=======
=======
>>>>>>> kd
const BiasKernels bias_cuda = {};
const RmsNormKernels rmsnorm_cuda = {};
const RopeKernels rope_cuda = {};
const LatentKernels latent_cuda = {};
const SwigluKernels swiglu_cuda = {};
>>>>>>> kc
const RouterKernels router_cuda = {};
const PermuteKernels permute_cuda = {};
const AdamWKernels adamw_cuda = {};
const MuonKernels muon_cuda = {};
<<<<<<< HEAD
void free_blas(void*) {}
=======
double register_peak_gflops_cuda(Stream&, double) { return 0; }
>>>>>>> kd
}  // namespace moe::cuda
