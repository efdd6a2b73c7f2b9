// The roof: fused multiply-adds whose operands never leave the registers, on all threads at once.
// Not here: anything that reads memory (moe-bench measures those).
#include <omp.h>

#include <algorithm>
#include <chrono>

#include "kernels/cpu.h"
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

// GFLOP/s of one thread running for `seconds`.
double measure(double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  double passed = 0, calls = 0;
  volatile float keep = 0;
  do {
    float result;
    fused_multiply_adds(&result);
    keep = result;
    ++calls;
    passed = std::chrono::duration<double>(Clock::now() - start).count();
  } while (passed < seconds);
  (void)keep;
  return calls * 2.0 * kWidth * kChains * kSteps / passed * 1e-9;
}

}  // namespace

double register_peak_gflops_cpu(Stream& stream, double seconds) {
  double total = 0;
#pragma omp parallel num_threads(stream.num_threads()) reduction(+ : total)
  total += measure(seconds);
  return total;
}

}  // namespace moe::MOE_ISA
