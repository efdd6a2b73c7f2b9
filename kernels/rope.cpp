// Rotary position embedding in place, both conventions of pairs (formula: kernels.h). The backward is the rotation by the
// opposite angle. Not here: the tables of cosines and sines, which depend on the model (base, scaling).
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

// Rotates the pairs (a_i, b_i) of one head by `sign` times the tabled angle.
template <class T>
inline void rotate_halves(T* a, T* b, i64 half, const float* cos, const float* sin, vf sign) {
  for_columns(half, [&](i64 i, auto lanes) {
    const vf va = load(a + i, lanes), vb = load(b + i, lanes);
    const vf c = load(cos + i, lanes), s = load(sin + i, lanes) * sign;
    store(a + i, va * c - vb * s, lanes);
    store(b + i, vb * c + va * s, lanes);
  });
}

// The same for the pairs (x_2i, x_2i+1).
template <class T>
inline void rotate_neighbours(T* x, i64 half, const float* cos, const float* sin, float sign) {
  for (i64 i = 0; i < half; ++i) {
    const float a = load_one(x + 2 * i), b = load_one(x + 2 * i + 1), c = cos[i], s = sin[i] * sign;
    store_one(x + 2 * i, a * c - b * s);
    store_one(x + 2 * i + 1, b * c + a * s);
  }
}

void rotate(const char* op, Stream& stream, const Mat& x_TC, const RopeShape& shape, std::span<const std::int32_t> pos_T,
            const float* cos_PR2, const float* sin_PR2, float sign) {
  const i64 S = shape.head_dim, first = shape.first, R = shape.turned(), half = R / 2;
  expect_rope_shape(op, x_TC, shape, pos_T);
  expect_range(op, "pos", pos_T.data(), x_TC.rows, 0, std::int64_t{1} << 31);
  dispatch(
      [&](auto* x) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, x_TC.rows* x_TC.cols * 8))
        for (i64 t = 0; t < x_TC.rows; ++t) {
          auto* row = x + t * x_TC.stride;
          const float *cos = cos_PR2 + pos_T[t] * half, *sin = sin_PR2 + pos_T[t] * half;
          for (i64 h = first; h < x_TC.cols; h += S)
            if (shape.interleaved)
              rotate_neighbours(row + h, half, cos, sin, sign);
            else
              rotate_halves(row + h, row + h + half, half, cos, sin, splat(sign));
        }
      },
      x_TC);
}

void forward(Stream& stream, Mat x_TC, const RopeShape& shape, std::span<const std::int32_t> pos_T, const float* cos_PR2,
             const float* sin_PR2) {
  rotate("rope.forward", stream, x_TC, shape, pos_T, cos_PR2, sin_PR2, 1.0f);
}
void backward(Stream& stream, Mat dx_TC, const RopeShape& shape, std::span<const std::int32_t> pos_T, const float* cos_PR2,
              const float* sin_PR2) {
  rotate("rope.backward", stream, dx_TC, shape, pos_T, cos_PR2, sin_PR2, -1.0f);
}

}  // namespace

const RopeKernels rope_cpu = {forward, backward};

}  // namespace moe::MOE_ISA
