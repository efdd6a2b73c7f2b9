// Muon's three passes on CUDA (kernels.h): momentum, Newton-Schulz with the products of cuda_products.h, update. Everything
// in float, nothing waited for: the norm stays on the device. A = X X^T and B are symmetric but for rounding, so products
// that want rows read columns. Not here: which matrices there are, and bringing one together that ranks share
// (lib/parallel/muon.h).
#include "kernels/cuda_elements.h"
#include "kernels/cuda_products.h"
#include "kernels/cuda_sums.h"

namespace moe::cuda {
namespace {

constexpr int kNumSteps = 5;  // with these coefficients (Jordan 2024) singular values from 0.01 on come near 1
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

// q is the new momentum over s; one rounding for each sum, as muon.cpp has it.
template <class Moment>
struct Momentum {
  float* g;
  Moment* m;
  float mu, s, mu_over_s;
  template <int kN>
  __device__ void run(i64 i) const {
    Pack<kN, float> grad = pack_at<kN>(g + i);
    Pack<kN, Moment> moment = pack_at<kN>(m + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      const float q = __fmaf_rn(mu_over_s, to_f32(moment.v[j]), grad.v[j]);
      put(&moment.v[j], s * q);
      grad.v[j] = s * __fmaf_rn(mu, q, grad.v[j]);
    }
    pack_at<kN>(m + i) = moment, pack_at<kN>(g + i) = grad;
  }
};
template <class Moment>
void momentum_of(Stream& stream, const AdamWTensor& t, float momentum, float grad_scale) {
  for_elements(queue_of(stream), t.n, fits_pack(t.g, 16) && fits_pack(t.m, 4 * sizeof(Moment)),
               Momentum<Moment>{t.g, static_cast<Moment*>(t.m), momentum, grad_scale, momentum / grad_scale});
}

void momentum(Stream& stream, const AdamWTensor& t, float momentum, float grad_scale) {
  require(t.n >= 0 && (t.n == 0 || (t.g && t.m)), "muon.momentum: expected g and m");
  require(grad_scale > 0, "muon.momentum: expected grad_scale > 0");
  if (t.moments == DType::kF32)
    momentum_of<float>(stream, t, momentum, grad_scale);
  else
    momentum_of<BF16>(stream, t, momentum, grad_scale);
}

// to (=) scale * x, over the norm where the sum of squares is given.
struct Scaled {
  const float* x;
  float scale;
  const double* squares;
  float* to;
  template <int kN>
  __device__ void run(i64 i) const {
    const float factor = squares ? static_cast<float>(1.0 / (sqrt(*squares) + 1e-7)) : scale;
    Pack<kN, float> v = pack_at<kN>(x + i);
#pragma unroll
    for (int j = 0; j < kN; ++j) v.v[j] *= factor;
    pack_at<kN>(to + i) = v;
  }
};
void scaled(Queue& q, const float* x, float scale, const double* squares, float* to, i64 n) {
  for_elements(q, n, fits_pack(x, 16) && fits_pack(to, 16), Scaled{x, scale, squares, to});
}

Strided strided(const Mat& m) { return {m.f32(), m.cols, 1}; }

// One step: to (=) a x + B x, or a x + x B where x is tall, with B of x x^T, or x^T x; a_rr and b_rr are scratch.
void newton_schulz(Queue& q, Mat x, Mat to, Mat a_rr, Mat b_rr) {
  const bool is_tall = x.rows > x.cols;
  const i64 r = a_rr.rows;
  const Strided xs = strided(x), a = strided(a_rr), b = strided(b_rr);
  if (is_tall)
    product(q, {r, r, x.rows, xs.transposed(), xs, 1, 0, nullptr, a_rr.f32()});
  else
    product(q, {r, r, x.cols, xs, xs.transposed(), 1, 0, nullptr, a_rr.f32()});
  product(q, {r, r, r, a.transposed(), a, kC, kB, a_rr.f32(), b_rr.f32()});
  if (is_tall)
    product(q, {x.rows, x.cols, r, xs, b, 1, kA, x.f32(), to.f32()});
  else
    product(q, {x.rows, x.cols, r, b.transposed(), xs, 1, kA, x.f32(), to.f32()});
}

void orthogonalize(Stream& stream, Mat x, float scale, std::span<float> work) {
  const i64 n = x.rows * x.cols, r = x.rows < x.cols ? x.rows : x.cols;
  require(x.dtype == DType::kF32 && (x.rows <= 1 || x.stride == x.cols), "muon.orthogonalize: expected f32 without padding");
  require(static_cast<i64>(work.size()) >= orthogonalize_floats(x.rows, x.cols), "muon.orthogonalize: expected more work");
  if (n == 0) return;
  Queue& q = queue_of(stream);
  scaled(q, x.f32(), 1, sum_of_squares_of(q, x.f32(), n), x.f32(), n);
  Mat from = x, to = mat(work.data(), x.rows, x.cols);
  const Mat a_rr = mat(work.data() + n, r, r), b_rr = mat(work.data() + n + r * r, r, r);
  for (int step = 0; step < kNumSteps; ++step) {
    newton_schulz(q, from, to, a_rr, b_rr);
    const Mat next = to;
    to = from, from = next;
  }
  scaled(q, from.f32(), scale, nullptr, x.f32(), n);
}

struct Apply {
  AdamWTensor t;
  float lr;
  template <int kN>
  __device__ void run(i64 i) const {
    Pack<kN, float> w = pack_at<kN>(t.w + i);
    const Pack<kN, float> g = pack_at<kN>(t.g + i);
    Pack<kN, BF16> rounded;
#pragma unroll
    for (int j = 0; j < kN; ++j) {
      w.v[j] = __fmaf_rn(-lr, __fmaf_rn(t.decay, w.v[j], g.v[j]), w.v[j]);
      put(&rounded.v[j], w.v[j]);
    }
    pack_at<kN>(t.w + i) = w, pack_at<kN>(t.g + i) = {};
    if (t.w_bf16) pack_at<kN>(t.w_bf16 + i) = rounded;
  }
};

void apply(Stream& stream, const AdamWTensor& t, float lr) {
  require(t.n >= 0 && (t.n == 0 || (t.w && t.g)), "muon.apply: expected w and g");
  for_elements(queue_of(stream), t.n, fits_pack(t.w, 16) && fits_pack(t.g, 16) && fits_pack(t.w_bf16, 8), Apply{t, lr});
}

}  // namespace

const MuonKernels muon_cuda = {momentum, orthogonalize, apply};

}  // namespace moe::cuda
