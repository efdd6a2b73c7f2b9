// Rows of a table by token id, and their gradient (kernels.h). The gradient is parallel over chunks of columns: each
// element of dw has one owner, who adds in token order. Not here: the tied output map (gemm).
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

constexpr i64 kColumnsPerChunk = 64;

void forward(Stream& stream, std::span<const std::int32_t> id_T, CMat w_VD, Mat x_TD) {
  const i64 T = static_cast<i64>(id_T.size()), D = w_VD.cols;
  expect_shape("embedding.forward", "x", x_TD, T, D);
  expect_range("embedding.forward", "token id", id_T.data(), T, 0, w_VD.rows);
  dispatch(
      [&](auto* w, auto* x) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, T* D * 8))
        for (i64 t = 0; t < T; ++t) copy_row(w + id_T[t] * w_VD.stride, x + t * x_TD.stride, D);
      },
      w_VD, x_TD);
}

void backward_weight(Stream& stream, std::span<const std::int32_t> id_T, CMat dx_TD, Mat dw_VD) {
  const i64 T = static_cast<i64>(id_T.size()), D = dw_VD.cols;
  expect_shape("embedding.backward_weight", "dx", dx_TD, T, D);
  expect_f32("embedding.backward_weight", "dw", dw_VD);
  expect_range("embedding.backward_weight", "token id", id_T.data(), T, 0, dw_VD.rows);
  const i64 num_chunks = (D + kColumnsPerChunk - 1) / kColumnsPerChunk;
  dispatch(
      [&](auto* dx) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, T* D * 12))
        for (i64 c = 0; c < num_chunks; ++c) {
          const i64 begin = c * kColumnsPerChunk, width = D - begin < kColumnsPerChunk ? D - begin : kColumnsPerChunk;
          for (i64 t = 0; t < T; ++t) {
            const auto* from = dx + t * dx_TD.stride + begin;
            float* to = dw_VD.f32() + id_T[t] * dw_VD.stride + begin;
            for_columns(width,
                        [&](i64 j, auto lanes) { store(to + j, load(to + j, lanes) + load(from + j, lanes), lanes); });
          }
        }
      },
      dx_TD);
}

}  // namespace

const EmbeddingKernels embedding_cpu = {forward, backward_weight};

}  // namespace moe::MOE_ISA
