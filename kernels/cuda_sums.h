// Sums of double over many blocks, in an order that the sizes alone give: every block leaves its part, then one block adds
// the parts. Included by kernels/*.cu only. Not here: what is summed.
#pragma once

#include "kernels/cuda.h"

namespace moe::cuda {

inline constexpr unsigned kSumThreads = 256;

// part[this block] (=) the sum of what the block's warps have (the value of lane 0), in their order. Every thread calls.
__device__ inline void leave_part(double of_warp, double* part) {
  __shared__ double warp2sum[kWarp];
  if (threadIdx.x % kWarp == 0) warp2sum[threadIdx.x / kWarp] = of_warp;
  __syncthreads();
  if (threadIdx.x != 0) return;
  double sum = 0;
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) sum += warp2sum[w];
  part[blockIdx.x] = sum;
}

// *sum (=|+=) factor times the sum of the parts. One block.
static __global__ void add_parts_kernel(const double* part_n, int n, double factor, bool add, double* sum) {
  double total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < n; i += static_cast<int>(blockDim.x)) total += part_n[i];
  total = factor * block_sum(total);
  if (threadIdx.x == 0) *sum = add ? *sum + total : total;
}
inline void add_parts(Queue& q, const double* part_n, unsigned n, double factor, bool add, double* sum) {
  launch(q, add_parts_kernel, 1, kSumThreads, 0, part_n, static_cast<int>(n), factor, add, sum);
}

// The sum of squares of n floats, a number of the device in the queue's scratch (adamw.cu).
const double* sum_of_squares_of(Queue& q, const float* x, i64 n);

}  // namespace moe::cuda
