// What this machine reaches: the roof that percentages refer to.
#pragma once

#include "lib/model/block.h"

namespace moe {

// GFLOP/s of a product of square matrices of `dtype` by the gemm kernel itself: of 1024^3 on the CPU, median of a few runs
// of about `seconds` in all, and of 4096^3 on another device (less where that is slow).
double gemm_peak_gflops(Env env, DType dtype, double seconds = 0.15);

}  // namespace moe
