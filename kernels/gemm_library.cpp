#include "kernels/gemm_library.h"

#ifdef MOE_HAVE_DNNL
#include <oneapi/dnnl/dnnl.h>
#endif
#include <omp.h>

namespace moe {

#ifdef MOE_HAVE_DNNL
bool library_sgemm(const LibraryProduct& p) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // outside of a parallel region it would start its own
  const dnnl_status_t status =
      dnnl_sgemm(p.transposed_a ? 'T' : 'N', p.transposed_b ? 'T' : 'N', p.m, p.n, p.k, 1.0f, p.a, p.a_stride, p.b,
                 p.b_stride, p.store == Store::kAdd ? 1.0f : 0.0f, p.c, p.c_stride);
  omp_set_num_threads(threads);
  return status == dnnl_success;
}
#else
bool library_sgemm(const LibraryProduct&) { return false; }
#endif

}  // namespace moe
