// Stands in for <cublas_v2.h>: what kernels/gemm.cu calls, as plain loops in the stream. Matrices lie by columns, as there.
#pragma once

#include "tests/cuda_on_host/cuda_runtime.h"

struct cublas_on_host;
using cublasHandle_t = cublas_on_host*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS = 0, CUBLAS_STATUS_INVALID_VALUE = 7, CUBLAS_STATUS_NOT_SUPPORTED = 15 };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cublasMath_t { CUBLAS_DEFAULT_MATH = 0, CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION = 16 };
enum cudaDataType_t { CUDA_R_32F, CUDA_R_16BF = 14 };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F = 68 };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT = -1 };

const char* cublasGetStatusString(cublasStatus_t);
cublasStatus_t cublasCreate(cublasHandle_t*);
cublasStatus_t cublasDestroy(cublasHandle_t);
cublasStatus_t cublasSetStream(cublasHandle_t, cudaStream_t);
cublasStatus_t cublasSetWorkspace(cublasHandle_t, void*, std::size_t);
cublasStatus_t cublasSetMathMode(cublasHandle_t, cublasMath_t);
// C [m, n] = alpha op(A) op(B) + beta C. Refuses the dtypes and leading dimensions that cuBLAS refuses.
cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t of_a, cublasOperation_t of_b, std::int64_t m,
                               std::int64_t n, std::int64_t k, const void* alpha, const void* a, cudaDataType_t a_type,
                               std::int64_t lda, const void* b, cudaDataType_t b_type, std::int64_t ldb, const void* beta,
                               void* c, cudaDataType_t c_type, std::int64_t ldc, cublasComputeType_t, cublasGemmAlgo_t);
