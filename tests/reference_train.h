// Training of the specification in double: clip by global norm, AdamW, the bias update. One micro-batch a step.
// Not here: schedules of the learning rate, accumulation.
#pragma once

#include "tests/reference.h"

namespace moe {

struct ReferenceTraining {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8;
  double weight_decay = 0;       // of every parameter but the norms (names ending in "norm.weight")
  double max_grad_norm = 0;      // 0: no clipping; else gradients are multiplied by min(1, max / norm)
  double bias_update_speed = 0;  // u of b_i += u * sign(mean count - count_i), after the step, sign(0) = 0
};

struct ReferenceTrainState {
  ReferenceParams params, m, v;
  ReferenceParams router_bias;  // "layers.{i}.router.bias"
  int num_steps = 0;
};

struct ReferenceStep {
  ReferenceTerms terms;  // before the update
  double grad_norm = 0;  // before clipping
};
// input.router_bias is replaced by the state's.
ReferenceStep reference_step(const ModelConfig&, ReferenceInput input, const ReferenceLoss&, const ReferenceTraining&,
                             ReferenceTrainState& state);

}  // namespace moe
