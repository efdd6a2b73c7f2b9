// AdamW on CUDA, one launch for all tensors of a list, the sum of squares for clipping, and the moving average of parameters
// (kernels.h). 16 bytes read and 16 written a parameter (12 and 12 with bf16 moments, 2 more for a bf16 copy): the memory's
// speed is the limit. What is computed for an element is fixed to the last rounding, so that it does not matter whether it
// came alone or with its neighbours. Not here: schedules, clipping, the check that all gradients are finite.
#include <vector>

#include "kernels/adamw.h"
#include "kernels/cuda_elements.h"
#include "kernels/cuda_sums.h"

namespace moe::cuda {
namespace {

constexpr unsigned kThreads = kElementThreads;
constexpr i64 kChunk = 8192;  // elements of a block

// A tensor of the list, as the device sees it: chunks [first_chunk, end_chunk) of all are its own.
struct Entry {
  AdamWTensor tensor;
  i64 first_chunk, end_chunk;
  bool aligned;  // for accesses of four elements
};

// Elements [i, i + kN).
template <int kN, class Moment>
__device__ void update(const AdamWTensor& t, const AdamWFactors& f, i64 i) {
  Pack<kN, float> w = pack_at<kN>(t.w + i);
  const Pack<kN, float> g = pack_at<kN>(t.g + i);
  Pack<kN, Moment> m = pack_at<kN>(static_cast<Moment*>(t.m) + i), v = pack_at<kN>(static_cast<Moment*>(t.v) + i);
  Pack<kN, BF16> rounded;
#pragma unroll
  for (int j = 0; j < kN; ++j) {
    const float grad = g.v[j] * f.grad_scale;
    const float m_new = __fmaf_rn(f.beta1, to_f32(m.v[j]), f.one_minus_beta1 * grad);
    const float v_new = __fmaf_rn(f.beta2, to_f32(v.v[j]), f.one_minus_beta2 * (grad * grad));
    const float direction = m_new * f.m_correction / (sqrtf(v_new * f.v_correction) + f.eps);
    w.v[j] = __fmaf_rn(-f.lr, __fmaf_rn(t.decay, w.v[j], direction), w.v[j]);
    put(&m.v[j], m_new), put(&v.v[j], v_new), put(&rounded.v[j], w.v[j]);
  }
  pack_at<kN>(t.w + i) = w, pack_at<kN>(t.g + i) = {};
  pack_at<kN>(static_cast<Moment*>(t.m) + i) = m, pack_at<kN>(static_cast<Moment*>(t.v) + i) = v;
  if (t.w_bf16) pack_at<kN>(t.w_bf16 + i) = rounded;
}

template <class Moment>
__device__ void update_chunk(const Entry& e, const AdamWFactors& f, i64 begin) {
  const i64 end = begin + kChunk < e.tensor.n ? begin + kChunk : e.tensor.n;
  const i64 scalars = e.aligned ? end / 4 * 4 : begin;  // chunks begin at multiples of four
#pragma unroll 1
  for (i64 i = begin + i64{4} * threadIdx.x; i < scalars; i += 4 * kThreads) update<4, Moment>(e.tensor, f, i);
#pragma unroll 1
  for (i64 i = scalars + threadIdx.x; i < end; i += kThreads) update<1, Moment>(e.tensor, f, i);
}

// A block a chunk; all its threads look for the tensor that the chunk is of.
__global__ void __launch_bounds__(kThreads, 4) step_kernel(const Entry* entries, int num_tensors, AdamWFactors f) {
  __shared__ int found;
  const i64 chunk = blockIdx.x;
  for (int i = static_cast<int>(threadIdx.x); i < num_tensors; i += kThreads)
    if (entries[i].first_chunk <= chunk && chunk < entries[i].end_chunk) found = i;
  __syncthreads();
  const Entry e = entries[found];
  const i64 begin = (chunk - e.first_chunk) * kChunk;
  if (e.tensor.moments == DType::kF32)
    update_chunk<float>(e, f, begin);
  else
    update_chunk<BF16>(e, f, begin);
}

bool is_aligned(const AdamWTensor& t) {
  const std::size_t moment = 4 * size_of(t.moments);
  return fits_pack(t.w, 16) && fits_pack(t.g, 16) && fits_pack(t.m, moment) && fits_pack(t.v, moment) &&
         fits_pack(t.w_bf16, 8);
}

void step(Stream& stream, std::span<const AdamWTensor> tensors, const AdamWHyper& hyper) {
  require(hyper.step >= 1, "adamw.step: expected step >= 1");
  std::vector<Entry> entries;
  i64 chunks = 0;
  for (const AdamWTensor& t : tensors) {
    require(t.n >= 0 && (t.n == 0 || (t.w && t.g && t.m && t.v)), "adamw.step: expected w, g, m and v for every tensor");
    const i64 end = chunks + (t.n + kChunk - 1) / kChunk;
    if (t.n > 0) entries.push_back({t, chunks, end, is_aligned(t)});
    chunks = end;
  }
  if (chunks == 0) return;
  Queue& q = queue_of(stream);
  Entry* const list = q.scratch_of<Entry>(static_cast<i64>(entries.size()));
  stream.copy(list, entries.data(), entries.size() * sizeof(Entry));
  launch(q, step_kernel, static_cast<unsigned>(chunks), kThreads, 0, list, static_cast<int>(entries.size()),
         factors_of(hyper));
}

// ---- Sum of squares: chunks of all vectors are shared out to the blocks in turns, packs of four elements of a chunk to its
// threads, aligned or not.

constexpr i64 kSquaresChunk = 32768, kMostParts = 1024;

// A vector of the list: chunks [first_chunk, ...) of all are its own.
struct Vector {
  const float* x;
  i64 n, first_chunk;
  bool aligned;
};
Vector vector_of(const float* x, i64 n, i64 first_chunk) { return {x, n, first_chunk, fits_pack(x, 16)}; }
i64 num_chunks(i64 n) { return (n + kSquaresChunk - 1) / kSquaresChunk; }
unsigned num_parts(i64 chunks) { return static_cast<unsigned>(chunks < kMostParts ? chunks : kMostParts); }

// What a thread has of a chunk.
__device__ double squares_of_chunk(const Vector& v, i64 begin) {
  const i64 end = begin + kSquaresChunk < v.n ? begin + kSquaresChunk : v.n;
  double sum = 0;
#pragma unroll 4
  for (i64 at = begin + i64{4} * threadIdx.x; at + 4 <= end; at += 4 * kThreads) {
    Pack<4, float> p;
    if (v.aligned)
      p = pack_at<4>(v.x + at);
    else
      for (int i = 0; i < 4; ++i) p.v[i] = v.x[at + i];
#pragma unroll
    for (int i = 0; i < 4; ++i) sum = fma(static_cast<double>(p.v[i]), static_cast<double>(p.v[i]), sum);
  }
  if (const i64 at = end / 4 * 4 + threadIdx.x; at < end)
    sum = fma(static_cast<double>(v.x[at]), static_cast<double>(v.x[at]), sum);
  return sum;
}

__global__ void squares_kernel(Vector v, i64 chunks, double* part) {
  double sum = 0;
  for (i64 c = blockIdx.x; c < chunks; c += gridDim.x) sum += squares_of_chunk(v, c * kSquaresChunk);
  leave_part(warp_sum(sum), part);
}

__global__ void squares_of_list_kernel(const Vector* list, int num_vectors, i64 chunks, double* part) {
  double sum = 0;
  for (i64 c = blockIdx.x; c < chunks; c += gridDim.x) {
    int at = 0;  // the last one that begins at chunk c or before
    for (int end = num_vectors; end - at > 1;) {
      const int middle = (at + end) / 2;
      (list[middle].first_chunk <= c ? at : end) = middle;
    }
    const Vector v = list[at];
    sum += squares_of_chunk(v, (c - v.first_chunk) * kSquaresChunk);
  }
  leave_part(warp_sum(sum), part);
}

void sum_of_squares(Stream& stream, std::span<const std::span<const float>> g, double* sum) {
  std::vector<Vector> vectors;
  i64 chunks = 0;
  for (const std::span<const float> x : g) {
    if (!x.empty()) vectors.push_back(vector_of(x.data(), static_cast<i64>(x.size()), chunks));
    chunks += num_chunks(static_cast<i64>(x.size()));
  }
  if (chunks == 0) return;
  Queue& q = queue_of(stream);
  double* const part = static_cast<double*>(q.scratch(kMostParts * sizeof(double) + vectors.size() * sizeof(Vector)));
  auto* const list = reinterpret_cast<Vector*>(part + kMostParts);
  stream.copy(list, vectors.data(), vectors.size() * sizeof(Vector));
  launch(q, squares_of_list_kernel, num_parts(chunks), kThreads, 0, list, static_cast<int>(vectors.size()), chunks, part);
  add_parts(q, part, num_parts(chunks), 1.0, true, sum);
}

// ---- Average.

struct Average {
  float* mean;
  const float* w;
  float rest;
  template <int kN>
  __device__ void run(i64 i) const {
    Pack<kN, float> to = pack_at<kN>(mean + i);
    const Pack<kN, float> from = pack_at<kN>(w + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) to.v[j] = __fmaf_rn(rest, from.v[j] - to.v[j], to.v[j]);
    pack_at<kN>(mean + i) = to;
  }
};

void average(Stream& stream, std::span<float> mean, const float* w, double decay) {
  require(decay >= 0 && decay < 1 && (mean.empty() || w), "adamw.average: expected 0 <= decay < 1, and w");
  for_elements(queue_of(stream), static_cast<i64>(mean.size()), fits_pack(mean.data(), 16) && fits_pack(w, 16),
               Average{mean.data(), w, static_cast<float>(1.0 - decay)});
}

}  // namespace

const double* sum_of_squares_of(Queue& q, const float* x, i64 n) {
  const i64 chunks = num_chunks(n);
  double *const part = q.scratch_of<double>(kMostParts + 1), *const sum = part + kMostParts;
  launch(q, squares_kernel, num_parts(chunks), kThreads, 0, vector_of(x, n, 0), chunks, part);
  add_parts(q, part, num_parts(chunks), 1.0, false, sum);
  return sum;
}

const AdamWKernels adamw_cuda = {step, sum_of_squares, average};

}  // namespace moe::cuda
