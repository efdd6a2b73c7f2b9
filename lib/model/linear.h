// A linear map with a bias, if it has one; a copy of a residual stream. Not here: maps of experts (block.cpp).
#pragma once

#include "lib/model/block.h"

namespace moe {

// to (=) from
inline void copy_tokens(const Env& env, CMat from, Mat to) {
  env.kernels.elements.copy(env.stream, from, to, Store::kAssign);
}

// y_MN (=|+=) x_MK w_NK^T + bias_N. The bias comes first, so that bf16 rounds once.
inline void linear_forward(const Env& env, CMat x_MK, const Param& w, const Param* bias, Mat y_MN, Store store) {
  if (bias) env.kernels.bias.forward(env.stream, bias->weight, {}, nullptr, y_MN, store);
  env.kernels.gemm.forward(env.stream, x_MK, w.weight, y_MN, bias ? Store::kAdd : store);
}

// Gradients of both +=.
inline void linear_backward_weight(const Env& env, CMat dy_MN, CMat x_MK, const Param& w, const Param* bias) {
  env.kernels.gemm.backward_weight(env.stream, dy_MN, x_MK, w.grad);
  if (bias) env.kernels.bias.backward_weight(env.stream, dy_MN, {}, nullptr, bias->grad);
}

}  // namespace moe
