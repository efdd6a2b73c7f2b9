// Root mean square norm of column groups on CUDA (formulas and shapes: kernels.h). A group of a row belongs to a team of
// threads and stays in their registers between the sum and what is written, up to 8192 columns of bf16 a group: each byte
// is read once. Not here: fusion with the residual stream.
#include "kernels/cuda_columns.h"

namespace moe::cuda {
namespace {

constexpr int kKept = 4, kKeptBackward = 2;  // packs of a row that a thread has

// Row i of the kernels is group i % groups of row i / groups of the matrices.
struct Groups {
  unsigned rows, groups, width;
  __device__ i64 offset(unsigned i, i64 stride) const { return i64{i / groups} * stride + i64{i % groups} * width; }
};
Groups groups_of(const char* op, const CMat& x, int groups) {
  require(groups >= 1 && x.cols % groups == 0, op);
  require(x.rows * groups < (i64{1} << 31), "rmsnorm: expected less than 2^31 groups");
  return {static_cast<unsigned>(x.rows * groups), static_cast<unsigned>(groups), static_cast<unsigned>(x.cols / groups)};
}

template <int kN, class X, class Y>
__global__ void __launch_bounds__(kMostThreads, 1)
    forward_kernel(const X* __restrict__ x, i64 x_stride, Either w, Groups of, float eps, Y* __restrict__ y, i64 y_stride,
                   float* rstd, unsigned team) {
  const Member me(team);
  const unsigned n = me.row < of.rows ? of.width / kN : 0;
  const Kept<kKept, kN, X> row(x + of.offset(me.row, x_stride), n, me);
  float sum_x2 = 0, v[kN], scale[kN];
  walk<kKept>(n, me, [&](int i, unsigned j) {
    row.get(i, j, v);
    for (int c = 0; c < kN; ++c) sum_x2 += v[c] * v[c];
  });
  const float r = 1.0f / sqrtf(me.sum(sum_x2) / static_cast<float>(of.width) + eps);
  if (n > 0 && me.lane == 0) rstd[me.row] = r;
  Y* const to = y + of.offset(me.row, y_stride);
  walk<kKept>(n, me, [&](int i, unsigned j) {
    row.get(i, j, v);
    w.load(i64{j} * kN, scale);
    for (int c = 0; c < kN; ++c) v[c] = v[c] * r * scale[c];
    store_floats(to + i64{j} * kN, v);
  });
}

void forward(Stream& stream, CMat x_TC, CMat w_1G, int groups, float eps, Mat y_TC, float* rstd_Tg) {
  const Groups of = groups_of("rmsnorm.forward: expected the columns to be a multiple of the groups", x_TC, groups);
  expect_shape("rmsnorm.forward", "x", x_TC, x_TC.rows, x_TC.cols);
  expect_shape("rmsnorm.forward", "w", w_1G, 1, of.width);
  expect_shape("rmsnorm.forward", "y", y_TC, x_TC.rows, x_TC.cols);
  dispatch(
      [&]<class X, class Y>(const X* x, Y* y) {
        with_packs<X, Y>({x_TC, w_1G, y_TC}, {of.width}, [&](auto n) {
          const Teams teams = teams_for(of.rows, of.width / n(), kKept);
          launch(queue_of(stream), forward_kernel<n(), X, Y>, dim3(teams.blocks), teams.threads, 0, x, x_TC.stride,
                 Either(w_1G), of, eps, y, y_TC.stride, rstd_Tg, teams.size);
        });
      },
      x_TC, y_TC);
}

// dx (=|+=) rstd * dy * w - x * c, c = rstd^3 * mean(dy * w * x). dx may be dy: a thread writes what only it has read.
template <int kN, class DY, class X, class DX>
__global__ void __launch_bounds__(kMostThreads, 1)
    backward_input_kernel(const DY* dy, i64 dy_stride, const X* __restrict__ x, i64 x_stride, Either w, Groups of,
                          const float* __restrict__ rstd, DX* dx, i64 dx_stride, bool add, unsigned team) {
  const Member me(team);
  const unsigned n = me.row < of.rows ? of.width / kN : 0;
  const Kept<kKeptBackward, kN, DY> row_dy(dy + of.offset(me.row, dy_stride), n, me);
  const Kept<kKeptBackward, kN, X> row_x(x + of.offset(me.row, x_stride), n, me);
  const float r = n > 0 ? rstd[me.row] : 0;
  float sum = 0, d[kN], v[kN], scale[kN], old[kN] = {};
  walk<kKeptBackward>(n, me, [&](int i, unsigned j) {
    row_dy.get(i, j, d), row_x.get(i, j, v), w.load(i64{j} * kN, scale);
    for (int c = 0; c < kN; ++c) sum += d[c] * scale[c] * v[c];
  });
  const float factor = r * r * r * (me.sum(sum) / static_cast<float>(of.width));
  DX* const to = dx + of.offset(me.row, dx_stride);
  walk<kKeptBackward>(n, me, [&](int i, unsigned j) {
    row_dy.get(i, j, d), row_x.get(i, j, v), w.load(i64{j} * kN, scale);
    if (add) load_floats(to + i64{j} * kN, old);
    for (int c = 0; c < kN; ++c) d[c] = d[c] * scale[c] * r - v[c] * factor + old[c];
    store_floats(to + i64{j} * kN, d);
  });
}

void backward_input(Stream& stream, CMat dy_TC, CMat x_TC, CMat w_1G, int groups, const float* rstd_Tg, Mat dx_TC,
                    Store store) {
  const Groups of = groups_of("rmsnorm.backward_input: expected the columns to be a multiple of the groups", x_TC, groups);
  expect_shape("rmsnorm.backward_input", "w", w_1G, 1, of.width);
  expect_shape("rmsnorm.backward_input", "dy", dy_TC, x_TC.rows, x_TC.cols);
  expect_shape("rmsnorm.backward_input", "dx", dx_TC, x_TC.rows, x_TC.cols);
  dispatch(
      [&]<class DY, class X, class DX>(const DY* dy, const X* x, DX* dx) {
        with_packs<DY, X, DX>({dy_TC, x_TC, w_1G, dx_TC}, {of.width}, [&](auto n) {
          const Teams teams = teams_for(of.rows, of.width / n(), kKeptBackward);
          launch(queue_of(stream), backward_input_kernel<n(), DY, X, DX>, dim3(teams.blocks), teams.threads, 0, dy,
                 dy_TC.stride, x, x_TC.stride, Either(w_1G), of, rstd_Tg, dx, dx_TC.stride, store == Store::kAdd,
                 teams.size);
        });
      },
      dy_TC, x_TC, dx_TC);
}

// dy * x * rstd of group i.
template <class DY, class X>
struct WeightTerm {
  const DY* dy;
  const X* x;
  const float* rstd;
  i64 dy_stride, x_stride;
  Groups of;
  template <int kN>
  __device__ void operator()(i64 i, i64 j, float (&v)[kN]) const {
    const unsigned row = static_cast<unsigned>(i);
    float other[kN];
    load_floats(dy + of.offset(row, dy_stride) + j, v);
    load_floats(x + of.offset(row, x_stride) + j, other);
    const float r = rstd[row];
    for (int c = 0; c < kN; ++c) v[c] *= other[c] * r;
  }
};

void backward_weight(Stream& stream, CMat dy_TC, CMat x_TC, int groups, const float* rstd_Tg, float* dw_G) {
  const Groups of = groups_of("rmsnorm.backward_weight: expected the columns to be a multiple of the groups", x_TC, groups);
  expect_shape("rmsnorm.backward_weight", "dy", dy_TC, x_TC.rows, x_TC.cols);
  dispatch(
      [&]<class DY, class X>(const DY* dy, const X* x) {
        with_packs<DY, X>({dy_TC, x_TC}, {of.width}, [&](auto n) {
          add_columns<n()>(queue_of(stream), WeightTerm<DY, X>{dy, x, rstd_Tg, dy_TC.stride, x_TC.stride, of},
                           {nullptr, of.rows}, 1, of.width, dw_G);
        });
      },
      dy_TC, x_TC);
}

}  // namespace

const RmsNormKernels rmsnorm_cuda = {forward, backward_input, backward_weight};

}  // namespace moe::cuda
