// Cross-entropy and its gradient, row by row while the row is in cache (kernels.h). Not here: the mean over tokens and its
// scaling over ranks, which are the caller's.
#include "kernels/cpu.h"
#include "kernels/softmax.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kTokensPerBlock = 16;

// -log softmax(row)[target]; with a gradient, row (=) grad_scale * (softmax - onehot).
double one_token(float* row, i64 V, std::int32_t target, float grad_scale) {
  const bool grad = grad_scale != 0.0f;
  if (target < 0) {
    if (grad) std::memset(row, 0, sizeof(float) * static_cast<std::size_t>(V));
    return 0.0;
  }
  const float largest = row_max(row, V), at_target = row[target];
  const float sum = row_exp_sum(row, V, largest, grad ? row : nullptr);
  if (grad) {
    scale_row(row, V, grad_scale / sum);
    row[target] -= grad_scale;
  }
  return __builtin_log(static_cast<double>(sum)) + (static_cast<double>(largest) - static_cast<double>(at_target));
}

void forward(Stream& stream, Mat logits_TV, std::span<const std::int32_t> target_T, float grad_scale, float* loss_T,
             double* sum) {
  const i64 T = logits_TV.rows, V = logits_TV.cols;
  expect_f32("cross_entropy.forward", "logits", logits_TV);
  expect_shape("cross_entropy.forward", "logits", logits_TV, T, V);
  expect_count("cross_entropy.forward", "targets", static_cast<i64>(target_T.size()), T);
  expect_range("cross_entropy.forward", "target", target_T.data(), T, -1, V);
  *sum += ordered_sum(stream, T, kTokensPerBlock, threads_for(stream, T * V * 8), [&](i64 begin, i64 end) {
    double total = 0;
    for (i64 t = begin; t < end; ++t) {
      const double loss =
          one_token(logits_TV.f32() + t * logits_TV.stride, V, target_T[static_cast<std::size_t>(t)], grad_scale);
      if (loss_T) loss_T[t] = static_cast<float>(loss);
      total += loss;
    }
    return total;
  });
}

void greedy(Stream& stream, CMat logits_TV, std::int32_t* token_T) {
  const i64 T = logits_TV.rows, V = logits_TV.cols;
  expect_f32("cross_entropy.greedy", "logits", logits_TV);
  expect_shape("cross_entropy.greedy", "logits", logits_TV, T, V);
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, T* V * 4))
  for (i64 t = 0; t < T; ++t) {
    const float* row = logits_TV.f32() + t * logits_TV.stride;
    i64 best = 0;
    for (i64 v = 1; v < V; ++v)
      if (row[v] > row[best]) best = v;
    token_T[t] = static_cast<std::int32_t>(best);
  }
}

}  // namespace

const CrossEntropyKernels cross_entropy_cpu = {forward, greedy};

}  // namespace moe::MOE_ISA
