#include "kernels/cuda.h"
namespace moe::cuda {
const GemmKernels gemm_cuda = {};
const GroupedGemmKernels grouped_gemm_cuda = {};
<<<<<<< HEAD
const AttentionKernels attention_cuda = {};
const CacheAttentionKernels cache_attention_cuda = {};
=======
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
void free_blas(void*) {}
}  // namespace moe::cuda
