// What this machine reaches: the roof that percentages refer to.
#pragma once

#include "lib/model/block.h"

namespace moe {

// GFLOP/s of an fp32 matrix product of n^3 by the gemm kernel itself, median of a few runs of about `seconds` in all.
double gemm_peak_gflops(Env env, int n = 1024, double seconds = 0.15);

}  // namespace moe
