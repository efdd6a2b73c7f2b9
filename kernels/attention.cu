// Attention on CUDA (kernels.h): checks, the choice of a way (cuda_attention.h), and what the backward of every way begins
// with: delta = the sum of d_o o over a head's values, and from it the gradients of the sinks.
#include "kernels/cuda_attention.h"

namespace moe::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kPitchOfNumbers = 64;  // queries of the largest tile that is copied whole

void check_shapes(const AttentionShape& s, const CMat& q, const CMat& k, const CMat& v, const CMat& o) {
  const i64 T = i64{s.num_seqs} * s.seq_len;
  require(s.window >= 0, "attention: window is negative");
  require(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0, "attention: num_heads is not a multiple of num_kv_heads");
  expect_shape("attention", "q", q, T, i64{s.num_heads} * s.head_dim);
  expect_shape("attention", "k", k, T, i64{s.num_kv_heads} * s.head_dim);
  expect_shape("attention", "v", v, T, i64{s.num_kv_heads} * s.value_dim);
  expect_shape("attention", "o", o, T, i64{s.num_heads} * s.value_dim);
}

AttentionProblem problem_of(const AttentionShape& s, const std::int32_t* doc_start_T) {
  AttentionProblem p = {};
  p.num_seqs = s.num_seqs, p.seq_len = s.seq_len;
  p.num_heads = s.num_heads, p.num_kv_heads = s.num_kv_heads, p.group = s.num_heads / s.num_kv_heads;
  p.scale = s.scale;
  p.window = s.window > 0 ? std::min(s.window, s.seq_len) : s.seq_len;
  p.sinks_H = s.sinks_H, p.doc_start_T = doc_start_T;
  return p;
}

// The running maximum of that way is of scores before the scale, which must not turn their order.
bool takes_mma(const AttentionShape& s, std::initializer_list<CMat> operands) {
  if (!attention_mma_takes(s.head_dim, s.value_dim) || s.head_dim % 8 != 0 || s.value_dim % 8 != 0 || !(s.scale > 0))
    return false;
  return std::all_of(operands.begin(), operands.end(),
                     [](const CMat& m) { return m.dtype == DType::kBF16 && aligned16(m.bf16(), m.stride); });
}

void forward(Stream& stream, const AttentionShape& s, CMat q, CMat k, CMat v, const std::int32_t* doc_start_T, Mat o,
             float* lse_TH) {
  check_shapes(s, q, k, v, o);
  const ForwardOperands a = {heads(q, s.head_dim), heads(k, s.head_dim), heads(v, s.value_dim), heads(o, s.value_dim),
                             lse_TH};
  const auto way = !takes_mma(s, {q, k, v, o})                       ? attention_forward_plain
                   : attention_hopper_takes(s.head_dim, s.value_dim) ? attention_forward_hopper
                                                                     : attention_forward_mma;
  way(queue_of(stream), problem_of(s, doc_start_T), a);
}

// A warp a (head, query, and what lies behind the last query). lse and delta (=) where BackwardOperands wants them, lse
// times lse_factor.
__global__ void delta_kernel(AttentionProblem p, Heads o, Heads d_o, const float* lse_TH, float lse_factor, bool wide,
                             int pitch, float* lse, float* delta) {
  const i64 n = i64{blockIdx.x} * (kThreads / kWarp) + threadIdx.x / kWarp;
  if (n >= i64{p.num_seqs} * pitch * p.num_heads) return;
  const int h = static_cast<int>(n % p.num_heads), lane = static_cast<int>(threadIdx.x) % kWarp;
  const i64 row = n / p.num_heads, s = row / pitch, i = row % pitch, t = s * p.seq_len + i;
  const bool real = i < p.seq_len;
  float sum = 0;
  if (real && wide) {
    for (int d = 4 * lane; d < o.width; d += 4 * kWarp) {
      const auto a = *reinterpret_cast<const Pack<4, BF16>*>(o.bf16(t, h) + d);
      const auto b = *reinterpret_cast<const Pack<4, BF16>*>(d_o.bf16(t, h) + d);
      for (int j = 0; j < 4; ++j) sum += to_f32(a.v[j]) * to_f32(b.v[j]);
    }
  } else if (real) {
    for (int d = lane; d < o.width; d += kWarp) sum += o.at(t, h, d) * d_o.at(t, h, d);
  }
  sum = warp_sum(sum);
  if (lane != 0) return;
  const i64 at = (s * p.num_heads + h) * pitch + i;
  lse[at] = real ? lse_TH[t * p.num_heads + h] * lse_factor : 0.0f;
  delta[at] = sum;
}

// A block a head: dsinks_H[h] += -sum over the tokens of exp(sink - lse) delta; a sink is a key whose value is 0.
__global__ void sinks_kernel(AttentionProblem p, const float* lse_TH, const float* delta, int pitch, float* dsinks_H) {
  const int h = static_cast<int>(blockIdx.x);
  double sum = 0;
  for (i64 t = threadIdx.x; t < i64{p.num_seqs} * p.seq_len; t += kThreads) {
    const float weight = expf(p.sinks_H[h] - lse_TH[t * p.num_heads + h]);
    sum -=
        static_cast<double>(weight) * static_cast<double>(delta[(t / p.seq_len * p.num_heads + h) * pitch + t % p.seq_len]);
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) dsinks_H[h] += static_cast<float>(sum);
}

void backward(Stream& stream, const AttentionShape& s, CMat q, CMat k, CMat v, CMat o, const float* lse_TH,
              const std::int32_t* doc_start_T, CMat d_o, Mat dq, Mat dk, Mat dv, float* dsinks_H) {
  check_shapes(s, q, k, v, o);
  check_shapes(s, dq, dk, dv, d_o);
  require(!dsinks_H || s.sinks_H, "attention: a gradient of sinks, but no sinks");
  Queue& queue = queue_of(stream);
  const AttentionProblem p = problem_of(s, doc_start_T);
  const bool mma = takes_mma(s, {q, k, v, d_o, dq, dk, dv});
  const bool wide = takes_mma(s, {o, d_o});
  const int pitch = (s.seq_len + kPitchOfNumbers - 1) / kPitchOfNumbers * kPitchOfNumbers;
  const i64 n = i64{s.num_seqs} * s.num_heads * pitch;
  float *const lse = queue.scratch_of<float>(2 * n + 2), *const delta = lse + n;
  const Heads o_heads = heads(o, s.value_dim), do_heads = heads(d_o, s.value_dim);
  launch(queue, delta_kernel, dim3(blocks_for(n, kThreads / kWarp)), kThreads, 0, p, o_heads, do_heads, lse_TH,
         mma ? kLog2E : 1.0f, wide, pitch, lse, delta);
  if (dsinks_H)
    launch(queue, sinks_kernel, dim3(static_cast<unsigned>(s.num_heads)), kThreads, 0, p, lse_TH, delta, pitch, dsinks_H);
  const BackwardOperands a = {heads(q, s.head_dim),
                              heads(k, s.head_dim),
                              heads(v, s.value_dim),
                              do_heads,
                              heads(dq, s.head_dim),
                              heads(dk, s.head_dim),
                              heads(dv, s.value_dim),
                              lse,
                              delta,
                              pitch,
                              reinterpret_cast<unsigned*>(delta + n)};
  const auto way = !mma                                              ? attention_backward_plain
                   : attention_hopper_takes(s.head_dim, s.value_dim) ? attention_backward_hopper
                                                                     : attention_backward_mma;
  way(queue, p, a);
}

}  // namespace

const AttentionKernels attention_cuda = {forward, backward};

}  // namespace moe::cuda
