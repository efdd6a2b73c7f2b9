// The BLAS's stand-in: see cublas_v2.h.
#include <vector>

#include "kernels/view.h"
#include "tests/cuda_on_host/counts.h"
#include "tests/cuda_on_host/cublas_v2.h"

struct cublas_on_host {
  cudaStream_t stream = nullptr;
};

namespace {

using Int = std::int64_t;

struct Matrix {
  void* data;
  cudaDataType_t type;
  Int stride;  // between columns

  float get(Int i, Int j) const {
    const Int at = j * stride + i;
    return type == CUDA_R_32F ? static_cast<const float*>(data)[at] : moe::to_float(static_cast<const moe::BF16*>(data)[at]);
  }
  void set(Int i, Int j, float v) const {
    const Int at = j * stride + i;
    if (type == CUDA_R_32F)
      static_cast<float*>(data)[at] = v;
    else
      static_cast<moe::BF16*>(data)[at] = moe::to_bf16(v);
  }
};

// The columns of op(m), rows x cols.
std::vector<float> floats(const Matrix& m, bool turned, Int rows, Int cols) {
  std::vector<float> v;
  v.reserve(static_cast<std::size_t>(rows * cols));
  for (Int j = 0; j < cols; ++j)
    for (Int i = 0; i < rows; ++i) v.push_back(turned ? m.get(j, i) : m.get(i, j));
  return v;
}

struct Product {
  Matrix a, b, c;
  bool a_turned, b_turned;
  Int m, n, k;
  float alpha, beta;

  void operator()() const {
    const std::vector<float> left = floats(a, a_turned, m, k), right = floats(b, b_turned, k, n);
    std::vector<float> sum(static_cast<std::size_t>(m));
    for (Int j = 0; j < n; ++j) {
      sum.assign(sum.size(), 0.0f);
      for (Int l = 0; l < k; ++l)
        for (Int i = 0; i < m; ++i)
          sum[static_cast<std::size_t>(i)] +=
              left[static_cast<std::size_t>(l * m + i)] * right[static_cast<std::size_t>(j * k + l)];
      for (Int i = 0; i < m; ++i) {
        const float v = alpha * sum[static_cast<std::size_t>(i)];
        c.set(i, j, beta == 0 ? v : v + beta * c.get(i, j));
      }
    }
  }
};

}  // namespace

const char* cublasGetStatusString(cublasStatus_t s) {
  return s == CUBLAS_STATUS_SUCCESS ? "success" : s == CUBLAS_STATUS_NOT_SUPPORTED ? "not supported" : "invalid value";
}
cublasStatus_t cublasCreate(cublasHandle_t* h) { return *h = new cublas_on_host, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasDestroy(cublasHandle_t h) { return delete h, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetStream(cublasHandle_t h, cudaStream_t s) { return h->stream = s, CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, std::size_t) { return CUBLAS_STATUS_SUCCESS; }
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t) { return CUBLAS_STATUS_SUCCESS; }

cublasStatus_t cublasGemmEx_64(cublasHandle_t h, cublasOperation_t of_a, cublasOperation_t of_b, Int m, Int n, Int k,
                               const void* alpha, const void* a, cudaDataType_t a_type, Int lda, const void* b,
                               cudaDataType_t b_type, Int ldb, const void* beta, void* c, cudaDataType_t c_type, Int ldc,
                               cublasComputeType_t, cublasGemmAlgo_t) {
  const bool a_turned = of_a == CUBLAS_OP_T, b_turned = of_b == CUBLAS_OP_T;
  if (a_type != b_type || (a_type == CUDA_R_32F && c_type != CUDA_R_32F)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (m < 0 || n < 0 || k < 0 || lda < (a_turned ? k : m) || ldb < (b_turned ? n : k) || ldc < m)
    return CUBLAS_STATUS_INVALID_VALUE;
  cuda_on_host::count(cuda_on_host::Counted::kLaunches);
  cuda_on_host::enqueue(h->stream, Product{{const_cast<void*>(a), a_type, lda},
                                           {const_cast<void*>(b), b_type, ldb},
                                           {c, c_type, ldc},
                                           a_turned,
                                           b_turned,
                                           m,
                                           n,
                                           k,
                                           *static_cast<const float*>(alpha),
                                           *static_cast<const float*>(beta)});
  return CUBLAS_STATUS_SUCCESS;
}
