// Rotary position embedding, half-split pairs, in place (formula: kernels.h). The backward is the rotation by the opposite
// angle. Not here: the tables of cosines and sines, which depend on the model (base, scaling).
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

// Rotates the pairs (a_i, b_i) of one head by `sign` times the tabled angle.
template <class T>
inline void rotate_head(T* a, T* b, i64 half, const float* cos, const float* sin, vf sign) {
  for_columns(half, [&](i64 i, auto lanes) {
    const vf va = load(a + i, lanes), vb = load(b + i, lanes);
    const vf c = load(cos + i, lanes), s = load(sin + i, lanes) * sign;
    store(a + i, va * c - vb * s, lanes);
    store(b + i, vb * c + va * s, lanes);
  });
}

void rotate(const char* op, Stream& stream, const Mat& x_TC, int head_dim, std::span<const std::int32_t> pos_T,
            const float* cos_PS2, const float* sin_PS2, float sign) {
  expect_count(op, "pos", static_cast<i64>(pos_T.size()), x_TC.rows);
  if (head_dim < 2 || head_dim % 2 != 0 || x_TC.cols % head_dim != 0)
    expect_shape(op, "x (a multiple of an even head width)", x_TC, x_TC.rows, -1);
  expect_range(op, "pos", pos_T.data(), x_TC.rows, 0, std::int64_t{1} << 31);
  const i64 half = head_dim / 2;
  dispatch(
      [&](auto* x) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, x_TC.rows* x_TC.cols * 8))
        for (i64 t = 0; t < x_TC.rows; ++t) {
          auto* row = x + t * x_TC.stride;
          for (i64 h = 0; h < x_TC.cols; h += head_dim)
            rotate_head(row + h, row + h + half, half, cos_PS2 + pos_T[t] * half, sin_PS2 + pos_T[t] * half, splat(sign));
        }
      },
      x_TC);
}

void forward(Stream& stream, Mat x_TC, int head_dim, std::span<const std::int32_t> pos_T, const float* cos_PS2,
             const float* sin_PS2) {
  rotate("rope.forward", stream, x_TC, head_dim, pos_T, cos_PS2, sin_PS2, 1.0f);
}
void backward(Stream& stream, Mat dx_TC, int head_dim, std::span<const std::int32_t> pos_T, const float* cos_PS2,
              const float* sin_PS2) {
  rotate("rope.backward", stream, dx_TC, head_dim, pos_T, cos_PS2, sin_PS2, -1.0f);
}

}  // namespace

const RopeKernels rope_cpu = {forward, backward};

}  // namespace moe::MOE_ISA
