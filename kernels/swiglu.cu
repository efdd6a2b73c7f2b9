// SwiGLU with the router's gate folded in on CUDA (formula: kernels.h; derivatives: swiglu.cpp). A row belongs to a team of
// threads; each byte is read and written once. The exponential of operands that are all bf16 is the fast one, whose error
// is far below their rounding. Not here: the linear maps around it.
#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr int kKept = 2;  // packs of a row that a thread has, of each operand
constexpr float kAlpha = 1.702f;

// A quotient that the fast division takes to be 0 is below 1.2e-38.
template <bool kFast>
__device__ inline float sigmoid(float z) {
  return __fdividef(1.0f, 1.0f + (kFast ? __expf(-z) : expf(-z)));
}

// A row's form and its gate. Not-a-number is neither above nor below a limit and stays.
template <bool kFast>
struct Form {
  float limit, gate;
  struct Derivatives {
    float value, dg, du;  // d * h / gate, and gate * d times the derivatives of h / gate
  };
  __device__ float cut_gate(float g) const { return g > limit ? limit : g; }
  __device__ float cut_up(float u) const { return u < -limit ? -limit : cut_gate(u); }

  __device__ float value(float g, float u) const {
    if (!(limit > 0)) return gate * (g * sigmoid<kFast>(g)) * u;
    const float z = cut_gate(g);
    return gate * (z * sigmoid<kFast>(kAlpha * z)) * (cut_up(u) + 1.0f);
  }
  __device__ Derivatives derive(float g, float u, float d) const {
    const bool plain = !(limit > 0);
    const float alpha = plain ? 1.0f : kAlpha, z = plain ? g : cut_gate(g), up = plain ? u : cut_up(u) + 1.0f;
    const float a = sigmoid<kFast>(alpha * z), za = z * a, scaled = gate * d;
    const float dg = scaled * up * (a + alpha * za * (1.0f - a));
    return {d * za * up, !plain && g > limit ? 0.0f : dg, !plain && (u > limit || u < -limit) ? 0.0f : scaled * za};
  }
};

template <int kN, class GU, class H>
__global__ void __launch_bounds__(kMostThreads, 1)
    forward_kernel(const GU* __restrict__ gu, i64 gu_stride, const float* __restrict__ gate, float limit, H* __restrict__ h,
                   i64 h_stride, unsigned rows, unsigned width, unsigned team) {
  const Member me(team);
  if (me.row >= rows) return;
  const unsigned n = width / kN;
  const GU* const g_row = gu + me.row * gu_stride;
  const Kept<kKept, kN, GU> row_g(g_row, n, me), row_u(g_row + width, n, me);
  const Form<kN == 8> form{limit, gate ? gate[me.row] : 1.0f};
  H* const to = h + me.row * h_stride;
  walk<kKept>(n, me, [&](int i, unsigned j) {
    float g[kN], u[kN];
    row_g.get(i, j, g), row_u.get(i, j, u);
#pragma unroll
    for (int c = 0; c < kN; ++c) g[c] = form.value(g[c], u[c]);
    store_floats(to + i64{j} * kN, g);
  });
}

void forward(Stream& stream, const SwigluShape& shape, CMat gu_R2F, const float* gate_R, Mat h_RF) {
  const i64 R = h_RF.rows, F = h_RF.cols;
  expect_shape("swiglu.forward", "h", h_RF, R, F);
  expect_shape("swiglu.forward", "gu", gu_R2F, R, 2 * F);
  dispatch(
      [&]<class GU, class H>(const GU* gu, H* h) {
        with_packs<GU, H>({gu_R2F, h_RF}, {F}, [&](auto n) {
          const Teams teams = teams_for(R, F / n(), kKept);
          launch(queue_of(stream), forward_kernel<n(), GU, H>, dim3(teams.blocks), teams.threads, 0, gu, gu_R2F.stride,
                 gate_R, shape.limit, h, h_RF.stride, static_cast<unsigned>(R), static_cast<unsigned>(F), teams.size);
        });
      },
      gu_R2F, h_RF);
}

// dgu may be gu: a thread writes what only it has read.
template <int kN, class DH, class GU, class DGU>
__global__ void __launch_bounds__(kMostThreads, 1)
    backward_kernel(const DH* __restrict__ dh, i64 dh_stride, const GU* gu, i64 gu_stride, const float* __restrict__ gate,
                    float limit, DGU* dgu, i64 dgu_stride, float* dgate, unsigned rows, unsigned width, unsigned team) {
  const Member me(team);
  const unsigned n = me.row < rows ? width / kN : 0;
  const GU* const g_row = gu + me.row * gu_stride;
  const Kept<kKept, kN, DH> row_d(dh + me.row * dh_stride, n, me);
  const Kept<kKept, kN, GU> row_g(g_row, n, me), row_u(g_row + width, n, me);
  const Form<kN == 8> form{limit, gate && n > 0 ? gate[me.row] : 1.0f};
  DGU* const to = dgu + me.row * dgu_stride;
  float sum = 0;
  walk<kKept>(n, me, [&](int i, unsigned j) {
    float d[kN], g[kN], u[kN];
    row_d.get(i, j, d), row_g.get(i, j, g), row_u.get(i, j, u);
#pragma unroll
    for (int c = 0; c < kN; ++c) {
      const auto of = form.derive(g[c], u[c], d[c]);
      sum += of.value, g[c] = of.dg, u[c] = of.du;
    }
    store_floats(to + i64{j} * kN, g);
    store_floats(to + width + i64{j} * kN, u);
  });
  if (!dgate) return;
  sum = me.sum(sum);
  if (n > 0 && me.lane == 0) dgate[me.row] = sum;
}

void backward_input(Stream& stream, const SwigluShape& shape, CMat dh_RF, CMat gu_R2F, const float* gate_R, Mat dgu_R2F,
                    float* dgate_R) {
  const i64 R = dh_RF.rows, F = dh_RF.cols;
  expect_shape("swiglu.backward_input", "dh", dh_RF, R, F);
  expect_shape("swiglu.backward_input", "gu", gu_R2F, R, 2 * F);
  expect_shape("swiglu.backward_input", "dgu", dgu_R2F, R, 2 * F);
  dispatch(
      [&]<class DH, class GU, class DGU>(const DH* dh, const GU* gu, DGU* dgu) {
        with_packs<DH, GU, DGU>({dh_RF, gu_R2F, dgu_R2F}, {F}, [&](auto n) {
          const Teams teams = teams_for(R, F / n(), kKept);
          launch(queue_of(stream), backward_kernel<n(), DH, GU, DGU>, dim3(teams.blocks), teams.threads, 0, dh, dh_RF.stride,
                 gu, gu_R2F.stride, gate_R, shape.limit, dgu, dgu_R2F.stride, dgate_R, static_cast<unsigned>(R),
                 static_cast<unsigned>(F), teams.size);
        });
      },
      dh_RF, gu_R2F, dgu_R2F);
}

}  // namespace

const SwigluKernels swiglu_cuda = {forward, backward_input};

}  // namespace moe::cuda
