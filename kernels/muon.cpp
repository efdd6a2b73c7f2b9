// Muon's three passes (kernels.h): momentum, Newton-Schulz with the products of gemm.cpp, update. Everything in float.
// A = X X^T and B are symmetric but for rounding, so no matrix is ever transposed: products that want rows read columns.
// Not here: which matrices there are, and bringing one together that ranks share (lib/parallel/muon.h).
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kChunk = 65536;  // elements; the unit that threads share out
constexpr int kNumSteps = 5;   // with these coefficients (Jordan 2024) singular values from 0.01 on come near 1
constexpr float kA = 3.4445f, kB = -4.7750f, kC = 2.0315f;

// element(i, lanes) for all of 0 .. n - 1.
template <class Element>
void for_elements(Stream& stream, i64 n, Element element) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, n * 4))
  for (i64 begin = 0; begin < n; begin += kChunk)
    for_columns(n - begin < kChunk ? n - begin : kChunk, [&](i64 j, auto lanes) { element(begin + j, lanes); });
}

// Written so that no sum has two products: which of them is fused would be the compiler's choice, and not the same in a full
// vector and in the last one, where shards of another mesh end. q is the new momentum over s.
template <class Moment>
void momentum_of(Stream& stream, const AdamWTensor& t, float momentum, float grad_scale) {
  Moment* const m = static_cast<Moment*>(t.m);
  const vf mu = splat(momentum), s = splat(grad_scale), mu_over_s = splat(momentum / grad_scale);
  for_elements(stream, t.n, [=](i64 i, auto lanes) {
    const vf grad = load(t.g + i, lanes);
    const vf q = mu_over_s * load(m + i, lanes) + grad;
    store(m + i, s * q, lanes);
    store(t.g + i, s * (mu * q + grad), lanes);
  });
}

void momentum(Stream& stream, const AdamWTensor& t, float momentum, float grad_scale) {
  require(t.n >= 0 && (t.n == 0 || (t.g && t.m)), "muon.momentum: expected g and m");
  require(grad_scale > 0, "muon.momentum: expected grad_scale > 0");
  if (t.moments == DType::kF32)
    momentum_of<float>(stream, t, momentum, grad_scale);
  else
    momentum_of<BF16>(stream, t, momentum, grad_scale);
}

// to (=) a * x, of n elements; may be x.
void scaled(Stream& stream, const float* x, float a, float* to, i64 n) {
  for_elements(stream, n, [=](i64 i, auto lanes) { store(to + i, splat(a) * load(x + i, lanes), lanes); });
}

// One step: to (=) a x + B x, with B of x x^T; a_rr and b_rr are scratch.
void newton_schulz(Stream& stream, Mat x, Mat to, Mat a_rr, Mat b_rr) {
  const bool is_tall = x.rows > x.cols;
  const i64 rr = a_rr.rows * a_rr.cols;
  if (is_tall) {
    scaled(stream, a_rr.f32(), 0, a_rr.f32(), rr);
    gemm_cpu.backward_weight(stream, x, x, a_rr);  // += x^T x
  } else {
    gemm_cpu.forward(stream, x, x, a_rr, Store::kAssign);
  }
  gemm_cpu.forward(stream, a_rr, a_rr, b_rr, Store::kAssign);
  float *const a = a_rr.f32(), *const b = b_rr.f32();
  for_elements(stream, rr, [=](i64 i, auto lanes) {
    store(b + i, splat(kB) * load(a + i, lanes) + splat(kC) * load(b + i, lanes), lanes);
  });
  scaled(stream, x.f32(), kA, to.f32(), x.rows * x.cols);
  if (is_tall)
    gemm_cpu.forward(stream, x, b_rr, to, Store::kAdd);
  else
    gemm_cpu.backward_input(stream, b_rr, x, to, Store::kAdd);
}

void orthogonalize(Stream& stream, Mat x, float scale, std::span<float> work) {
  const i64 n = x.rows * x.cols, r = x.rows < x.cols ? x.rows : x.cols;
  require(x.dtype == DType::kF32 && (x.rows <= 1 || x.stride == x.cols), "muon.orthogonalize: expected f32 without padding");
  require(static_cast<i64>(work.size()) >= orthogonalize_floats(x.rows, x.cols), "muon.orthogonalize: expected more work");
  if (n == 0) return;
  const std::span<const float> elements(x.f32(), static_cast<std::size_t>(n));
  double squares = 0;
  adamw_cpu.sum_of_squares(stream, {&elements, 1}, &squares);
  const double norm = __builtin_sqrt(squares);
  scaled(stream, x.f32(), static_cast<float>(1.0 / (norm + 1e-7)), x.f32(), n);
  Mat from = x, to = mat(work.data(), x.rows, x.cols);
  const Mat a_rr = mat(work.data() + n, r, r), b_rr = mat(work.data() + n + r * r, r, r);
  for (int step = 0; step < kNumSteps; ++step) {
    newton_schulz(stream, from, to, a_rr, b_rr);
    const Mat next = to;
    to = from, from = next;
  }
  scaled(stream, from.f32(), scale, x.f32(), n);
}

template <bool kRoundedCopy>
void apply_to(Stream& stream, const AdamWTensor& t, float lr) {
  for_elements(stream, t.n, [=](i64 i, auto lanes) {
    const vf w_old = load(t.w + i, lanes);
    const vf w_new = w_old - splat(lr) * (load(t.g + i, lanes) + splat(t.decay) * w_old);
    store(t.w + i, w_new, lanes);
    store(t.g + i, vf{}, lanes);
    if constexpr (kRoundedCopy) store(t.w_bf16 + i, w_new, lanes);
  });
}

void apply(Stream& stream, const AdamWTensor& t, float lr) {
  require(t.n >= 0 && (t.n == 0 || (t.w && t.g)), "muon.apply: expected w and g");
  t.w_bf16 ? apply_to<true>(stream, t, lr) : apply_to<false>(stream, t, lr);
}

}  // namespace

const MuonKernels muon_cpu = {momentum, orthogonalize, apply};

}  // namespace moe::MOE_ISA
