// The roof on CUDA: fused multiply-adds whose operands never leave the registers, on all multiprocessors at once.
// Not here: matrix units, and anything that reads memory (moe-bench measures those).
#include <chrono>

#include "kernels/cuda.h"

namespace moe::cuda {
namespace {

constexpr unsigned kThreads = 512, kBlocksPerMultiprocessor = 4;
constexpr int kChains = 8, kSteps = 512;  // a thread: more chains than a multiply-add takes clocks, with its neighbours

// The sums tend to a fixed point, so that none overflows.
__global__ void __launch_bounds__(kThreads, 1) multiply_add_kernel(float factor, float term, float* to) {
  float acc[kChains];
#pragma unroll
  for (int i = 0; i < kChains; ++i) acc[i] = 0.1f * static_cast<float>(i);
#pragma unroll 16
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int i = 0; i < kChains; ++i) acc[i] = __fmaf_rn(acc[i], factor, term);
  }
#pragma unroll
  for (int i = 1; i < kChains; ++i) acc[0] += acc[i];
  to[blockIdx.x * kThreads + threadIdx.x] = acc[0];
}

}  // namespace

// Twice as many launches in a row until they take half of the time that was given.
double register_peak_gflops_cuda(Stream& stream, DType, double seconds) {
  using Clock = std::chrono::steady_clock;
  Queue& q = queue_of(stream);
  const unsigned blocks = kBlocksPerMultiprocessor * static_cast<unsigned>(num_multiprocessors());
  float* const to = q.scratch_of<float>(i64{blocks} * kThreads);
  const double flops = 2.0 * kChains * kSteps * kThreads * blocks;
  for (int launches = 1;; launches *= 2) {
    stream.synchronize();
    const auto start = Clock::now();
    for (int i = 0; i < launches; ++i) launch(q, multiply_add_kernel, dim3(blocks), kThreads, 0, 0.75f, 0.25f, to);
    stream.synchronize();
    const double passed = std::chrono::duration<double>(Clock::now() - start).count();
    if (passed >= seconds / 2) return launches * flops / passed * 1e-9;
  }
}

}  // namespace moe::cuda
