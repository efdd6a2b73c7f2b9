// The roof: fused multiply-adds whose operands never leave the registers, on all threads at once.
// Not here: anything that reads memory (moe-bench measures those).
#include "kernels/peak.h"

#include "kernels/simd.h"

namespace moe::MOE_ISA {

namespace {

constexpr int kChains = 12;  // more than latency x ports (4 x 2) and fewer than the registers of any instruction set
constexpr int kSteps = 4096;

// 2 * kWidth * kChains * kSteps floating-point operations. The sums tend to a fixed point, so that none overflows.
void fused_multiply_adds(float* sink) {
  vf acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = splat(0.1f * static_cast<float>(i));
  const vf factor = splat(0.75f), term = splat(0.25f);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], factor, term);
  }
  for (int i = 1; i < kChains; ++i) acc[0] += acc[i];
  store_one(sink, sum(acc[0]));
}

void measure_call() {
  volatile float keep = 0;
  float result;
  fused_multiply_adds(&result);
  keep = result;
  (void)keep;
}

}  // namespace

// bf16 is widened to vectors of fp32.
double register_peak_gflops_cpu(Stream& stream, DType, double seconds) {
  return measured_gflops(stream, seconds, 2.0 * kWidth * kChains * kSteps, measure_call);
}

}  // namespace moe::MOE_ISA
