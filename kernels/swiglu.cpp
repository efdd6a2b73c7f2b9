// SwiGLU with the router's gate folded in (formula: kernels.h). A row of gu is [g | u]; with a = sigmoid(g):
//   h = gate * g a u;   dg = gate * dh * u * a (1 + g (1 - a));   du = gate * dh * g a;   dgate = sum dh * g a u.
// Not here: the linear maps around it.
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

inline vf sigmoid(vf z) { return splat(1.0f) / (splat(1.0f) + exp(-z)); }

template <class GU, class H>
inline void forward_row(const GU* gu, i64 F, float gate, H* h) {
  for_columns(F, [&](i64 j, auto lanes) {
    const vf g = load(gu + j, lanes), u = load(gu + F + j, lanes);
    store(h + j, splat(gate) * (g / (splat(1.0f) + exp(-g))) * u, lanes);
  });
}

void forward(Stream& stream, CMat gu_R2F, const float* gate_R, Mat h_RF) {
  const i64 R = h_RF.rows, F = h_RF.cols;
  expect_shape("swiglu.forward", "h", h_RF, R, F);
  expect_shape("swiglu.forward", "gu", gu_R2F, R, 2 * F);
  dispatch(
      [&](auto* gu, auto* h) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, R* F * 12))
        for (i64 r = 0; r < R; ++r) forward_row(gu + r * gu_R2F.stride, F, gate_R ? gate_R[r] : 1.0f, h + r * h_RF.stride);
      },
      gu_R2F, h_RF);
}

// Returns dgate. dgu may be gu: both halves of a vector are read before they are written.
template <class DH, class GU, class DGU>
inline float backward_row(const DH* dh, const GU* gu, i64 F, float gate, DGU* dgu) {
  return sum_columns(F, [&](i64 j, auto lanes) {
    const vf d = load(dh + j, lanes), g = load(gu + j, lanes), u = load(gu + F + j, lanes);
    const vf a = sigmoid(g), ga = g * a, scaled = d * splat(gate);
    store(dgu + j, scaled * u * (a + ga * (splat(1.0f) - a)), lanes);
    store(dgu + F + j, scaled * ga, lanes);
    return d * ga * u;
  });
}

void backward_input(Stream& stream, CMat dh_RF, CMat gu_R2F, const float* gate_R, Mat dgu_R2F, float* dgate_R) {
  const i64 R = dh_RF.rows, F = dh_RF.cols;
  expect_shape("swiglu.backward_input", "dh", dh_RF, R, F);
  expect_shape("swiglu.backward_input", "gu", gu_R2F, R, 2 * F);
  expect_shape("swiglu.backward_input", "dgu", dgu_R2F, R, 2 * F);
  dispatch(
      [&](auto* dh, auto* gu, auto* dgu) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, R* F * 20))
        for (i64 r = 0; r < R; ++r) {
          const float dgate = backward_row(dh + r * dh_RF.stride, gu + r * gu_R2F.stride, F, gate_R ? gate_R[r] : 1.0f,
                                           dgu + r * dgu_R2F.stride);
          if (dgate_R) dgate_R[r] = dgate;
        }
      },
      dh_RF, gu_R2F, dgu_R2F);
}

}  // namespace

const SwigluKernels swiglu_cpu = {forward, backward_input};

}  // namespace moe::MOE_ISA
