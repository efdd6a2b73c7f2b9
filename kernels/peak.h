// How the roof of a processor is measured: calls that never leave the registers, on all threads at once. Included by
// peak.cpp and gemm_amx.cpp only.
#pragma once

#include <omp.h>

#include <chrono>

#include "kernels/cpu.h"

namespace moe::MOE_ISA {

// GFLOP/s of all threads that call f for `seconds`, a call being so many floating-point operations.
static inline double measured_gflops(Stream& stream, double seconds, double flop, void (*f)()) {
  using Clock = std::chrono::steady_clock;
  double total = 0;
#pragma omp parallel num_threads(stream.num_threads()) reduction(+ : total)
  {
    const auto start = Clock::now();
    double passed = 0, calls = 0;
    do {
      f();
      ++calls;
      passed = std::chrono::duration<double>(Clock::now() - start).count();
    } while (passed < seconds);
    total += calls * flop / passed * 1e-9;
  }
  return total;
}

}  // namespace moe::MOE_ISA
