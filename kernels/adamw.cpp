// AdamW, one pass over memory for all tensors of a list, the sum of squares for clipping, and the moving average of
// parameters (kernels.h). 16 bytes read and 16 written a parameter (12 and 12 with bf16 moments): the memory's speed is the
// limit. Stores are ordinary ones, since every line written was read just before. Not here: schedules, clipping, the check
// that all gradients are finite.
#include "kernels/adamw.h"

#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kChunk = 65536;      // elements; the unit that threads share out
constexpr i64 kSmallBlock = 4096;  // elements summed in float before double takes over

i64 num_chunks(i64 n) { return (n + kChunk - 1) / kChunk; }

// Elements [begin, end) of one tensor.
template <bool kRoundedCopy, class Moment>
void update(const AdamWTensor& tensor, const AdamWFactors& f, i64 begin, i64 end) {
  float *w = tensor.w + begin, *g = tensor.g + begin;
  Moment *m = static_cast<Moment*>(tensor.m) + begin, *v = static_cast<Moment*>(tensor.v) + begin;
  for_columns(end - begin, [&](i64 j, auto lanes) {
    const vf grad = load(g + j, lanes) * splat(f.grad_scale);
    const vf m_new = splat(f.beta1) * load(m + j, lanes) + splat(f.one_minus_beta1) * grad;
    const vf v_new = splat(f.beta2) * load(v + j, lanes) + splat(f.one_minus_beta2) * (grad * grad);
    const vf w_old = load(w + j, lanes);
    const vf direction = m_new * splat(f.m_correction) / (sqrt(v_new * splat(f.v_correction)) + splat(f.eps));
    const vf w_new = w_old - splat(f.lr) * (direction + splat(tensor.decay) * w_old);
    store(w + j, w_new, lanes);
    store(m + j, m_new, lanes);
    store(v + j, v_new, lanes);
    store(g + j, vf{}, lanes);
    if constexpr (kRoundedCopy) store(tensor.w_bf16 + begin + j, w_new, lanes);
  });
}

template <class Moment>
void update_range(const AdamWTensor& tensor, const AdamWFactors& f, i64 begin, i64 end) {
  if (tensor.w_bf16)
    update<true, Moment>(tensor, f, begin, end);
  else
    update<false, Moment>(tensor, f, begin, end);
}

// Chunks [first, last) of the list, counted over all tensors.
void update_chunks(std::span<const AdamWTensor> tensors, const AdamWFactors& factors, i64 first, i64 last) {
  i64 psum = 0;  // chunks of the tensors before
  for (const AdamWTensor& tensor : tensors) {
    const i64 n = num_chunks(tensor.n);
    const i64 from = first > psum ? first - psum : 0, to = last - psum < n ? last - psum : n;
    psum += n;
    if (from >= to) continue;
    const i64 end = to * kChunk < tensor.n ? to * kChunk : tensor.n;
    if (tensor.moments == DType::kF32)
      update_range<float>(tensor, factors, from * kChunk, end);
    else
      update_range<BF16>(tensor, factors, from * kChunk, end);
  }
}

void step(Stream& stream, std::span<const AdamWTensor> tensors, const AdamWHyper& hyper) {
  require(hyper.step >= 1, "adamw.step: expected step >= 1");
  i64 total = 0;
  for (const AdamWTensor& t : tensors) {
    require(t.n >= 0 && (t.n == 0 || (t.w && t.g && t.m && t.v)), "adamw.step: expected w, g, m and v for every tensor");
    total += num_chunks(t.n);
  }
  const AdamWFactors factors = factors_of(hyper);
#pragma omp parallel num_threads(threads_for(stream, total* kChunk * 4))
  {
    const i64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
    update_chunks(tensors, factors, total * thread / threads, total * (thread + 1) / threads);
  }
}

double squares_of(Stream& stream, std::span<const float> g) {
  const i64 n = static_cast<i64>(g.size());
  return ordered_sum(stream, n, kChunk, threads_for(stream, n * 4), [&](i64 begin, i64 end) {
    double total = 0;
    for (i64 b = begin; b < end; b += kSmallBlock) {
      const float* p = g.data() + b;
      total += sum_columns(end - b < kSmallBlock ? end - b : kSmallBlock, [&](i64 j, auto lanes) {
        const vf x = load(p + j, lanes);
        return x * x;
      });
    }
    return total;
  });
}

void sum_of_squares(Stream& stream, std::span<const std::span<const float>> g, double* sum) {
  for (const std::span<const float> tensor : g) *sum += squares_of(stream, tensor);
}

void average(Stream& stream, std::span<float> mean, const float* w, double decay) {
  require(decay >= 0 && decay < 1 && (mean.empty() || w), "adamw.average: expected 0 <= decay < 1, and w");
  const i64 n = static_cast<i64>(mean.size());
  const vf rest = splat(static_cast<float>(1.0 - decay));
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, n * 4))
  for (i64 begin = 0; begin < n; begin += kChunk) {
    float* const to = mean.data() + begin;
    for_columns(n - begin < kChunk ? n - begin : kChunk, [&](i64 j, auto lanes) {
      const vf old = load(to + j, lanes);
      store(to + j, old + rest * (load(w + begin + j, lanes) - old), lanes);
    });
  }
}

}  // namespace

const AdamWKernels adamw_cpu = {step, sum_of_squares, average};

}  // namespace moe::MOE_ISA
