// Cross-entropy and its gradient on CUDA (kernels.h): a block a row, logits are overwritten in place. One walk finds the
// maximum and the sum of exponentials together and keeps as much of the row as fits in shared memory; the walk that
// writes the gradient reads the rest again, most of it from L2. Not here: the mean over tokens, which is the caller's.
#include <cfloat>
#include <climits>
#include <cmath>

#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr unsigned kThreads = 512;
constexpr int kAtOnce = 4;  // packs that a thread loads before it needs one

// What is read or written once does not push the rest out of L2.
__device__ inline Pack<1, float> load_once(const Pack<1, float>* p) { return {__ldcs(p->v)}; }
__device__ inline Pack<4, float> load_once(const Pack<4, float>* p) {
  const float4 v = __ldcs(reinterpret_cast<const float4*>(p));
  return {v.x, v.y, v.z, v.w};
}
__device__ inline void store_once(Pack<1, float>* p, const Pack<1, float>& v) { __stcs(p->v, v.v[0]); }
__device__ inline void store_once(Pack<4, float>* p, const Pack<4, float>& v) {
  __stcs(reinterpret_cast<float4*>(p), make_float4(v.v[0], v.v[1], v.v[2], v.v[3]));
}

__device__ inline float block_max(float v) {
  __shared__ float warp2max[kWarp];
  v = warp_max(v);
  __syncthreads();  // of the call before
  if (threadIdx.x % kWarp == 0) warp2max[threadIdx.x / kWarp] = v;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) v = warp2max[w] > v ? warp2max[w] : v;
  return v;
}

// Maximum of what was seen and the sum of exp(x - maximum). The first maximum is finite, so that a row that begins with
// -infinity gives 0 for it; not-a-number is no maximum, but stays in the sum.
struct Running {
  float largest = -FLT_MAX, sum = 0;
  template <int kN>
  __device__ void add(const Pack<kN, float> (&packs)[kAtOnce]) {
    float m = largest;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
#pragma unroll
      for (int c = 0; c < kN; ++c) m = packs[i].v[c] > m ? packs[i].v[c] : m;
    if (m > largest) sum *= expf(largest - m), largest = m;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
#pragma unroll
      for (int c = 0; c < kN; ++c) sum += expf(packs[i].v[c] - m);
  }
};

// The first `num_kept` of the n packs of a row go to shared memory.
template <int kN>
__device__ Running read_row(const Pack<kN, float>* row, unsigned n, unsigned num_kept, Pack<kN, float>* kept) {
  Running running;
  for (unsigned j = threadIdx.x; j < n; j += kAtOnce * blockDim.x) {
    Pack<kN, float> packs[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const unsigned at = j + static_cast<unsigned>(i) * blockDim.x;
      if (at < num_kept)
        packs[i] = load_once(row + at);
      else if (at < n)
        packs[i] = row[at];
      else
#pragma unroll
        for (int c = 0; c < kN; ++c) packs[i].v[c] = -INFINITY;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const unsigned at = j + static_cast<unsigned>(i) * blockDim.x;
      if (at < num_kept) kept[at] = packs[i];
    }
    running.add(packs);
  }
  return running;
}

// row (=) factor * exp(row - largest), less grad_scale at the target.
template <int kN>
__device__ void write_gradient(Pack<kN, float>* row, unsigned n, unsigned num_kept, const Pack<kN, float>* kept,
                               float largest, float factor, unsigned target, float grad_scale) {
#pragma unroll 4
  for (unsigned j = threadIdx.x; j < n; j += blockDim.x) {
    Pack<kN, float> pack = j < num_kept ? kept[j] : load_once(row + j);
#pragma unroll
    for (int c = 0; c < kN; ++c) pack.v[c] = expf(pack.v[c] - largest) * factor;
    if (j == target / kN) {
#pragma unroll
      for (int c = 0; c < kN; ++c) pack.v[c] -= target % kN == static_cast<unsigned>(c) ? grad_scale : 0.0f;
    }
    store_once(row + j, pack);
  }
}

template <int kN>
__device__ void clear_row(Pack<kN, float>* row, unsigned n) {
  for (unsigned j = threadIdx.x; j < n; j += blockDim.x) store_once(row + j, Pack<kN, float>{});
}

// A target beyond the row gives not-a-number.
template <int kN>
__global__ void __launch_bounds__(kThreads, 1)
    forward_kernel(float* logits, i64 stride, const std::int32_t* __restrict__ targets, unsigned width, unsigned num_kept,
                   float grad_scale, float* loss, double* row2loss) {
  using Packs = Pack<kN, float>;
  const i64 t = blockIdx.x;
  Packs* const row = reinterpret_cast<Packs*>(logits + t * stride);
  Packs* const kept = shared_of<Packs>();
  const unsigned n = width / kN;
  const std::int32_t target = targets[t];
  if (target < 0) {
    if (grad_scale != 0) clear_row(row, n);
    if (threadIdx.x == 0) row2loss[t] = 0;
    if (threadIdx.x == 0 && loss) loss[t] = 0;
    return;
  }
  const bool known = static_cast<unsigned>(target) < width;
  const float at_target = known ? logits[t * stride + target] : NAN;
  const Running mine = read_row(row, n, num_kept, kept);
  const float largest = block_max(mine.largest);
  const float sum = block_sum(mine.sum * expf(mine.largest - largest));
  if (threadIdx.x == 0) {
    const double of_row = log(static_cast<double>(sum)) + (static_cast<double>(largest) - static_cast<double>(at_target));
    row2loss[t] = of_row;
    if (loss) loss[t] = static_cast<float>(of_row);
  }
  if (grad_scale != 0)
    write_gradient(row, n, num_kept, kept, largest, grad_scale / sum, static_cast<unsigned>(target), grad_scale);
}

constexpr unsigned kSumThreads = 1024;
// *to += the sum.
__global__ void __launch_bounds__(kSumThreads, 1) sum_kernel(const double* v, i64 n, double* to) {
  double sum = 0;
#pragma unroll 4
  for (i64 i = threadIdx.x; i < n; i += kSumThreads) sum += v[i];
  sum = block_sum(sum);
  if (threadIdx.x == 0) *to += sum;
}

// Bytes of shared memory for a row of so many. Two blocks of a multiprocessor read and write in turns, unless what they
// keep leaves more to be read again than stays in L2.
std::size_t bytes_kept(std::size_t row_bytes) {
  constexpr std::size_t kHalf = 110 * 1024, kWhole = 220 * 1024, kOfL2 = std::size_t{24} << 20, kBlocks = 2 * 132;
  const bool two = row_bytes <= kHalf || (row_bytes - kHalf) * kBlocks <= kOfL2;
  return std::min(row_bytes, two ? kHalf : kWhole);
}

void forward(Stream& stream, Mat logits_TV, std::span<const std::int32_t> target_T, float grad_scale, float* loss_T,
             double* sum) {
  const i64 T = logits_TV.rows, V = logits_TV.cols;
  expect_f32("cross_entropy.forward", "logits", logits_TV);
  expect_shape("cross_entropy.forward", "logits", logits_TV, T, V);
  expect_count("cross_entropy.forward", "targets", static_cast<i64>(target_T.size()), T);
  require(T < (i64{1} << 31) && V < (i64{1} << 31), "cross_entropy.forward: expected less than 2^31 rows and columns");
  if (T == 0) return;
  Queue& q = queue_of(stream);
  double* const row2loss = q.scratch_of<double>(T);
  with_packs<float>({logits_TV}, {V}, [&](auto n) {
    unsigned threads = kWarp;
    while (threads < kThreads && threads * kAtOnce * n() < V) threads *= 2;
    const std::size_t bytes = grad_scale != 0 ? bytes_kept(static_cast<std::size_t>(V) * sizeof(float)) : 0;
    launch(q, forward_kernel<n()>, dim3(static_cast<unsigned>(T)), threads, bytes, logits_TV.f32(), logits_TV.stride,
           target_T.data(), static_cast<unsigned>(V), static_cast<unsigned>(bytes / sizeof(float) / n()), grad_scale, loss_T,
           row2loss);
  });
  launch(q, sum_kernel, dim3(1), kSumThreads, 0, static_cast<const double*>(row2loss), T, sum);
}

// ---- The place of the largest, ties to the lowest; a first element that is not a number is not surpassed.

struct Best {
  float value = -INFINITY;
  int at = INT_MAX;
  __device__ void take(float v, int i) {
    if (v > value || (v == value && i < at)) value = v, at = i;
  }
  __device__ void take_from_warp() {
    for (int d = kWarp / 2; d > 0; d /= 2) {
      const float v = __shfl_xor_sync(0xffffffffu, value, d);
      take(v, __shfl_xor_sync(0xffffffffu, at, d));
    }
  }
};

template <int kN>
__global__ void __launch_bounds__(kThreads, 1)
    greedy_kernel(const float* logits, i64 stride, int width, std::int32_t* token) {
  __shared__ Best warp2best[kThreads / kWarp];
  const float* const row = logits + blockIdx.x * stride;
  Best best;
#pragma unroll 4
  for (int j = static_cast<int>(threadIdx.x) * kN; j < width; j += static_cast<int>(blockDim.x) * kN) {
    float v[kN];
    load_floats(row + j, v);
#pragma unroll
    for (int c = 0; c < kN; ++c) best.take(v[c], j + c);
  }
  best.take_from_warp();
  if (threadIdx.x % kWarp == 0) warp2best[threadIdx.x / kWarp] = best;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) best.take(warp2best[w].value, warp2best[w].at);
  token[blockIdx.x] = best.at < width && !isnan(row[0]) ? best.at : 0;
}

void greedy(Stream& stream, CMat logits_TV, std::int32_t* token_T) {
  const i64 T = logits_TV.rows, V = logits_TV.cols;
  expect_f32("cross_entropy.greedy", "logits", logits_TV);
  expect_shape("cross_entropy.greedy", "logits", logits_TV, T, V);
  require(T < (i64{1} << 31) && V < (i64{1} << 30), "cross_entropy.greedy: expected fewer rows and columns");
  with_packs<float>({logits_TV}, {V}, [&](auto n) {
    unsigned threads = kWarp;
    while (threads < kThreads && threads * kAtOnce * n() < V) threads *= 2;
    launch(queue_of(stream), greedy_kernel<n()>, dim3(static_cast<unsigned>(T)), threads, 0, logits_TV.f32(),
           logits_TV.stride, static_cast<int>(V), token_T);
  });
}

}  // namespace

const CrossEntropyKernels cross_entropy_cuda = {forward, greedy};

}  // namespace moe::cuda
