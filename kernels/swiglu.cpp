// SwiGLU with the router's gate folded in (formula: kernels.h). A row of gu is [g | u]; with a = sigmoid(g):
//   h = gate * g a u;   dg = gate * dh * u * a (1 + g (1 - a));   du = gate * dh * g a;   dgate = sum dh * g a u.
// Clamped: a = sigmoid(1.702 g), dg has 1 + 1.702 g (1 - a), u is u + 1; what the limit cuts has no gradient.
// Not here: the linear maps around it.
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

inline vf sigmoid(vf z) { return splat(1.0f) / (splat(1.0f) + exp(-z)); }

// d * h / gate, and gate * d times the derivatives of h / gate.
struct Derivatives {
  vf value, dg, du;
};

struct Plain {
  vf value(vf gate, vf g, vf u) const { return gate * (g / (splat(1.0f) + exp(-g))) * u; }
  Derivatives derive(vf g, vf u, vf scaled, vf d) const {
    const vf a = sigmoid(g), ga = g * a;
    return {d * ga * u, scaled * u * (a + ga * (splat(1.0f) - a)), scaled * ga};
  }
};

// Not-a-number is neither above nor below a limit and stays.
struct Clamped {
  float limit;
  static constexpr float kAlpha = 1.702f;
  vf cut_gate(vf g) const { return select(g > splat(limit), splat(limit), g); }
  vf cut_up(vf u) const { return select(u < splat(-limit), splat(-limit), cut_gate(u)); }

  vf value(vf gate, vf g, vf u) const {
    const vf z = cut_gate(g);
    return gate * z / (splat(1.0f) + exp(-(splat(kAlpha) * z))) * (cut_up(u) + splat(1.0f));
  }
  Derivatives derive(vf g, vf u, vf scaled, vf d) const {
    const vf z = cut_gate(g), up = cut_up(u) + splat(1.0f);
    const vf a = sigmoid(splat(kAlpha) * z), za = z * a;
    const vf dg = scaled * up * (a + splat(kAlpha) * za * (splat(1.0f) - a));
    return {d * za * up, select(g > splat(limit), vf{}, dg),
            select((u > splat(limit)) | (u < splat(-limit)), vf{}, scaled * za)};
  }
};

template <class Run>
void with_form(const SwigluShape& shape, Run run) {
  shape.limit > 0 ? run(Clamped{shape.limit}) : run(Plain{});
}

template <class Form, class GU, class H>
inline void forward_row(Form form, const GU* gu, i64 F, float gate, H* h) {
  for_columns(F, [&](i64 j, auto lanes) {
    store(h + j, form.value(splat(gate), load(gu + j, lanes), load(gu + F + j, lanes)), lanes);
  });
}

void forward(Stream& stream, const SwigluShape& shape, CMat gu_R2F, const float* gate_R, Mat h_RF) {
  const i64 R = h_RF.rows, F = h_RF.cols;
  expect_shape("swiglu.forward", "h", h_RF, R, F);
  expect_shape("swiglu.forward", "gu", gu_R2F, R, 2 * F);
  const auto run = [&](auto form, auto* gu, auto* h) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, R* F * 12))
    for (i64 r = 0; r < R; ++r) forward_row(form, gu + r * gu_R2F.stride, F, gate_R ? gate_R[r] : 1.0f, h + r * h_RF.stride);
  };
  with_form(shape, [&](auto form) { dispatch([&](auto* gu, auto* h) { run(form, gu, h); }, gu_R2F, h_RF); });
}

// Returns dgate. dgu may be gu: both halves of a vector are read before they are written.
template <class Form, class DH, class GU, class DGU>
inline float backward_row(Form form, const DH* dh, const GU* gu, i64 F, float gate, DGU* dgu) {
  return sum_columns(F, [&](i64 j, auto lanes) {
    const vf d = load(dh + j, lanes);
    const Derivatives of = form.derive(load(gu + j, lanes), load(gu + F + j, lanes), d * splat(gate), d);
    store(dgu + j, of.dg, lanes);
    store(dgu + F + j, of.du, lanes);
    return of.value;
  });
}

void backward_input(Stream& stream, const SwigluShape& shape, CMat dh_RF, CMat gu_R2F, const float* gate_R, Mat dgu_R2F,
                    float* dgate_R) {
  const i64 R = dh_RF.rows, F = dh_RF.cols;
  expect_shape("swiglu.backward_input", "dh", dh_RF, R, F);
  expect_shape("swiglu.backward_input", "gu", gu_R2F, R, 2 * F);
  expect_shape("swiglu.backward_input", "dgu", dgu_R2F, R, 2 * F);
  const auto run = [&](auto form, auto* dh, auto* gu, auto* dgu) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, R* F * 20))
    for (i64 r = 0; r < R; ++r) {
      const float dgate = backward_row(form, dh + r * dh_RF.stride, gu + r * gu_R2F.stride, F, gate_R ? gate_R[r] : 1.0f,
                                       dgu + r * dgu_R2F.stride);
      if (dgate_R) dgate_R[r] = dgate;
    }
  };
  with_form(shape, [&](auto form) {
    dispatch([&](auto* dh, auto* gu, auto* dgu) { run(form, dh, gu, dgu); }, dh_RF, gu_R2F, dgu_R2F);
  });
}

}  // namespace

const SwigluKernels swiglu_cpu = {forward, backward_input};

}  // namespace moe::MOE_ISA
