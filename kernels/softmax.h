// Two passes of a numerically safe softmax over one row of floats. Included by kernels/*.cpp only.
// Not here: the softmax of attention, which never sees a whole row.
#pragma once

#include "kernels/dispatch.h"

namespace moe::MOE_ISA {

static inline float row_max(const float* x, i64 n) {
  vf m = splat(-__builtin_inff());
  for_columns(n, [&](i64 j, auto lanes) { m = max(m, fill_rest(load(x + j, lanes), -__builtin_inff(), lanes)); });
  return max(m);
}

// Returns the sum of exp(x - shift); if e is not null, e (=) exp(x - shift). e may be x.
static inline float row_exp_sum(const float* x, i64 n, float shift, float* e) {
  return sum_columns(n, [&](i64 j, auto lanes) {
    const vf v = fill_rest(exp(load(x + j, lanes) - splat(shift)), 0.0f, lanes);
    if (e) store(e + j, v, lanes);
    return v;
  });
}

static inline void scale_row(float* x, i64 n, float factor) {
  for_columns(n, [&](i64 j, auto lanes) { store(x + j, load(x + j, lanes) * splat(factor), lanes); });
}

}  // namespace moe::MOE_ISA
