// Root mean square norm of column groups (formulas and shapes: kernels.h). Three passes over memory at most.
// G is the width of a group; weights are read as floats once per call. Not here: fusion with the residual stream.
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

// Rows of partial weight gradients, so that the sum over tokens has an order of its own.
constexpr i64 kMaxBlocks = 64, kMinRowsPerBlock = 64;

i64 group_width(const char* op, const CMat& x, int groups) {
  require(groups >= 1 && x.cols % groups == 0, op);
  return x.cols / groups;
}
const float* weights(Stream& stream, const CMat& w) {
  require(w.cols * static_cast<i64>(sizeof(float)) <= static_cast<i64>(Stream::kScratchBytes),
          "rmsnorm: weight too wide for the scratch memory");
  return row_as_floats(w, reinterpret_cast<float*>(stream.scratch(0)));
}

// One group: returns rstd.
template <class X, class Y>
inline float norm_group(const X* x, const float* w, i64 G, float eps, Y* y) {
  const float sum_x2 = sum_columns(G, [&](i64 j, auto lanes) {
    const vf v = load(x + j, lanes);
    return v * v;
  });
  const float rstd = 1.0f / __builtin_sqrtf(sum_x2 / static_cast<float>(G) + eps);
  for_columns(G, [&](i64 j, auto lanes) { store(y + j, load(x + j, lanes) * splat(rstd) * load(w + j, lanes), lanes); });
  return rstd;
}

void forward(Stream& stream, CMat x_TC, CMat w_1G, int groups, float eps, Mat y_TC, float* rstd_Tg) {
  const i64 G = group_width("rmsnorm.forward: expected the columns to be a multiple of the groups", x_TC, groups);
  expect_shape("rmsnorm.forward", "x", x_TC, x_TC.rows, x_TC.cols);
  expect_shape("rmsnorm.forward", "w", w_1G, 1, G);
  expect_shape("rmsnorm.forward", "y", y_TC, x_TC.rows, x_TC.cols);
  const float* w = weights(stream, w_1G);
  dispatch(
      [&](auto* x, auto* y) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, x_TC.rows* x_TC.cols * 8))
        for (i64 t = 0; t < x_TC.rows; ++t)
          for (i64 g = 0; g < groups; ++g)
            rstd_Tg[t * groups + g] = norm_group(x + t * x_TC.stride + g * G, w, G, eps, y + t * y_TC.stride + g * G);
      },
      x_TC, y_TC);
}

// dx (=|+=) rstd * dy * w - x * c, c = rstd^3 * mean(dy * w * x). dx may be dy: each element is read before it is written.
template <bool kAddTo, class DY, class X, class DX>
inline void norm_group_backward(const DY* dy, const X* x, const float* w, i64 G, float rstd, DX* dx) {
  const float sum_dywx =
      sum_columns(G, [&](i64 j, auto lanes) { return load(dy + j, lanes) * load(w + j, lanes) * load(x + j, lanes); });
  const vf r = splat(rstd), c = splat(rstd * rstd * rstd * (sum_dywx / static_cast<float>(G)));
  for_columns(G, [&](i64 j, auto lanes) {
    vf d = load(dy + j, lanes) * load(w + j, lanes) * r - load(x + j, lanes) * c;
    if constexpr (kAddTo) d += load(dx + j, lanes);
    store(dx + j, d, lanes);
  });
}

template <bool kAddTo>
void backward_input_rows(Stream& stream, const CMat& dy_TC, const CMat& x_TC, const float* w, i64 groups,
                         const float* rstd_Tg, const Mat& dx_TC) {
  const i64 G = x_TC.cols / groups;
  dispatch(
      [&](auto* dy, auto* x, auto* dx) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, x_TC.rows* x_TC.cols * 12))
        for (i64 t = 0; t < x_TC.rows; ++t)
          for (i64 g = 0; g < groups; ++g)
            norm_group_backward<kAddTo>(dy + t * dy_TC.stride + g * G, x + t * x_TC.stride + g * G, w, G,
                                        rstd_Tg[t * groups + g], dx + t * dx_TC.stride + g * G);
      },
      dy_TC, x_TC, dx_TC);
}

void backward_input(Stream& stream, CMat dy_TC, CMat x_TC, CMat w_1G, int groups, const float* rstd_Tg, Mat dx_TC,
                    Store store) {
  const i64 G = group_width("rmsnorm.backward_input: expected the columns to be a multiple of the groups", x_TC, groups);
  expect_shape("rmsnorm.backward_input", "w", w_1G, 1, G);
  expect_shape("rmsnorm.backward_input", "dy", dy_TC, x_TC.rows, x_TC.cols);
  expect_shape("rmsnorm.backward_input", "dx", dx_TC, x_TC.rows, x_TC.cols);
  const float* w = weights(stream, w_1G);
  if (store == Store::kAdd)
    backward_input_rows<true>(stream, dy_TC, x_TC, w, groups, rstd_Tg, dx_TC);
  else
    backward_input_rows<false>(stream, dy_TC, x_TC, w, groups, rstd_Tg, dx_TC);
}

// dw (+=) dy * x * rstd of one group.
template <class DY, class X>
inline void add_weight_gradient(const DY* dy, const X* x, i64 G, float rstd, float* dw) {
  for_columns(G, [&](i64 j, auto lanes) {
    store(dw + j, load(dw + j, lanes) + load(dy + j, lanes) * (load(x + j, lanes) * splat(rstd)), lanes);
  });
}

// Fixed blocks of rows, each into a row of its own in the scratch memory; then the blocks in order.
void backward_weight(Stream& stream, CMat dy_TC, CMat x_TC, int groups, const float* rstd_Tg, float* dw_G) {
  const i64 G = group_width("rmsnorm.backward_weight: expected the columns to be a multiple of the groups", x_TC, groups);
  expect_shape("rmsnorm.backward_weight", "dy", dy_TC, x_TC.rows, x_TC.cols);
  require(kMaxBlocks * G * static_cast<i64>(sizeof(float)) <= static_cast<i64>(Stream::kScratchBytes),
          "rmsnorm.backward_weight: group too wide for the scratch memory");
  const i64 T = x_TC.rows, even_share = (T + kMaxBlocks - 1) / kMaxBlocks;
  const i64 rows_per_block = even_share > kMinRowsPerBlock ? even_share : kMinRowsPerBlock;
  const i64 num_blocks = (T + rows_per_block - 1) / rows_per_block;
  float* partial = reinterpret_cast<float*>(stream.scratch(0));
  dispatch(
      [&](auto* dy, auto* x) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, T* x_TC.cols * 8))
        for (i64 b = 0; b < num_blocks; ++b) {
          float* sum_G = partial + b * G;
          std::memset(sum_G, 0, sizeof(float) * static_cast<std::size_t>(G));
          const i64 end = (b + 1) * rows_per_block < T ? (b + 1) * rows_per_block : T;
          for (i64 t = b * rows_per_block; t < end; ++t)
            for (i64 g = 0; g < groups; ++g)
              add_weight_gradient(dy + t * dy_TC.stride + g * G, x + t * x_TC.stride + g * G, G, rstd_Tg[t * groups + g],
                                  sum_G);
        }
      },
      dy_TC, x_TC);
  for (i64 b = 0; b < num_blocks; ++b)
    for (i64 j = 0; j < G; ++j) dw_G[j] += partial[b * G + j];
}

}  // namespace

const RmsNormKernels rmsnorm_cpu = {forward, backward_input, backward_weight};

}  // namespace moe::MOE_ISA
