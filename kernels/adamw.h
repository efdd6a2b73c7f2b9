// What AdamW of every device makes of a step's settings. Included by kernels/adamw.* only; see checks.h for why the function
// is each file's own. Not here: the step.
#pragma once

#include "kernels/kernels.h"

namespace moe {

// The constants of a step: factors with the bias corrections folded in.
struct AdamWFactors {
  float beta1, one_minus_beta1, beta2, one_minus_beta2, grad_scale, lr, eps;
  float m_correction, v_correction;  // 1 / (1 - beta^step)
};
static inline AdamWFactors factors_of(const AdamWHyper& h) {
  const double step = static_cast<double>(h.step), b1 = h.beta1, b2 = h.beta2;
  return {.beta1 = h.beta1,
          .one_minus_beta1 = static_cast<float>(1.0 - b1),
          .beta2 = h.beta2,
          .one_minus_beta2 = static_cast<float>(1.0 - b2),
          .grad_scale = h.grad_scale,
          .lr = h.lr,
          .eps = h.eps,
          .m_correction = static_cast<float>(1.0 / (1.0 - __builtin_pow(b1, step))),
          .v_correction = static_cast<float>(1.0 / (1.0 - __builtin_pow(b2, step)))};
}

}  // namespace moe
