// Rotary position embedding in place on CUDA, both conventions of pairs (formula: kernels.h); the backward is the rotation
// by the opposite angle. A thread turns the same pack of pairs of kHeads heads of a row: it reads the tables once for all
// of them. Not here: the tables of cosines and sines.
#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr int kHeads = 4;

struct Turn {
  const std::int32_t* pos;
  const float *cos, *sin;
  float sign;
  unsigned rows, heads, head_dim, first, half;
};

// One thread's place: kN pairs from `pair` of heads head, head + head_step, ... of a row.
struct Place {
  unsigned row, head, head_step, pair;
  __device__ Place(unsigned at, const Turn& of, int pairs) {
    const unsigned packs = of.half / static_cast<unsigned>(pairs);
    head_step = (of.heads + kHeads - 1) / kHeads;
    pair = at % packs * static_cast<unsigned>(pairs);
    head = at / packs % head_step;
    row = at / packs / head_step;
  }
};
template <int kPairs>
__device__ inline void load_angles(const Turn& of, const Place& at, float (&c)[kPairs], float (&s)[kPairs]) {
  const i64 from = i64{of.pos[at.row]} * of.half + at.pair;
#pragma unroll
  for (int i = 0; i < kPairs; i += kPairs < 4 ? kPairs : 4) {
    constexpr int kN = kPairs < 4 ? kPairs : 4;
    const Pack<kN, float> cs = load_pack<kN>(of.cos + from + i), ss = load_pack<kN>(of.sin + from + i);
#pragma unroll
    for (int k = 0; k < kN; ++k) c[i + k] = cs.v[k], s[i + k] = ss.v[k] * of.sign;
  }
}

// The pairs (i, i + half), kN at a time.
template <int kN, class X>
__global__ void __launch_bounds__(kThreads, 1) halves_kernel(X* x, i64 stride, Turn of, unsigned n) {
  const unsigned index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= n) return;
  const Place at(index, of, kN);
  X* const row = x + at.row * stride + of.first + at.pair;
  Pack<kN, X> low[kHeads], high[kHeads];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const unsigned head = at.head + static_cast<unsigned>(h) * at.head_step;
    if (head >= of.heads) continue;
    low[h] = load_pack<kN>(row + i64{head} * of.head_dim);
    high[h] = load_pack<kN>(row + i64{head} * of.head_dim + of.half);
  }
  float c[kN], s[kN];
  load_angles(of, at, c, s);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const unsigned head = at.head + static_cast<unsigned>(h) * at.head_step;
    if (head >= of.heads) continue;
    float a[kN], b[kN], a_new[kN];
    widen(low[h], a), widen(high[h], b);
#pragma unroll
    for (int i = 0; i < kN; ++i) a_new[i] = a[i] * c[i] - b[i] * s[i], b[i] = b[i] * c[i] + a[i] * s[i];
    store_floats(row + i64{head} * of.head_dim, a_new);
    store_floats(row + i64{head} * of.head_dim + of.half, b);
  }
}

// The pairs (2i, 2i + 1), kN elements at a time (kN = 1: one pair, element by element).
template <int kN, class X>
__global__ void __launch_bounds__(kThreads, 1) neighbours_kernel(X* x, i64 stride, Turn of, unsigned n) {
  constexpr int kPairs = kN < 2 ? 1 : kN / 2, kAccesses = 2 * kPairs / kN;
  const unsigned index = blockIdx.x * kThreads + threadIdx.x;
  if (index >= n) return;
  const Place at(index, of, kPairs);
  X* const row = x + at.row * stride + of.first + 2 * at.pair;
  Pack<kN, X> both[kHeads][kAccesses];
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const unsigned head = at.head + static_cast<unsigned>(h) * at.head_step;
    if (head >= of.heads) continue;
#pragma unroll
    for (int i = 0; i < kAccesses; ++i) both[h][i] = load_pack<kN>(row + i64{head} * of.head_dim + i);
  }
  float c[kPairs], s[kPairs];
  load_angles(of, at, c, s);
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    const unsigned head = at.head + static_cast<unsigned>(h) * at.head_step;
    if (head >= of.heads) continue;
    X* const to = row + i64{head} * of.head_dim;
    float v[2 * kPairs];
#pragma unroll
    for (int i = 0; i < 2 * kPairs; ++i) v[i] = to_f32(both[h][i / kN].v[i % kN]);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float a = v[2 * i], b = v[2 * i + 1];
      v[2 * i] = a * c[i] - b * s[i], v[2 * i + 1] = b * c[i] + a * s[i];
    }
    if constexpr (kN == 1)
      put(to, v[0]), put(to + 1, v[1]);
    else
      store_floats(to, v);
  }
}

void rotate(const char* op, Stream& stream, const Mat& x_TC, const RopeShape& shape, std::span<const std::int32_t> pos_T,
            const float* cos_PR2, const float* sin_PR2, float sign) {
  const i64 S = shape.head_dim, first = shape.first, R = shape.turned(), half = R / 2;
  expect_rope_shape(op, x_TC, shape, pos_T);
  const Turn turn{pos_T.data(),
                  cos_PR2,
                  sin_PR2,
                  sign,
                  static_cast<unsigned>(x_TC.rows),
                  static_cast<unsigned>(x_TC.cols / S),
                  static_cast<unsigned>(S),
                  static_cast<unsigned>(first),
                  static_cast<unsigned>(half)};
  const CMat cos{cos_PR2, DType::kF32, 1, half, half}, sin{sin_PR2, DType::kF32, 1, half, half};
  dispatch(
      [&]<class X>(X* x) {
        constexpr int kPack = kPackOf<X>;
        const bool tables_fit = packs_fit(4, cos) && packs_fit(4, sin) && half % 4 == 0;
        // What does not fit is not a multiple of a pack.
        with_packs<X>({x_TC}, {S, first, shape.interleaved ? R : half, tables_fit ? kPack : 1}, [&](auto n) {
          const i64 pairs = shape.interleaved ? (n() < 2 ? 1 : n() / 2) : n();
          const i64 threads = x_TC.rows * ((turn.heads + kHeads - 1) / kHeads) * (half / pairs);
          require(threads < (i64{1} << 31), "rope: expected fewer rows");
          launch(queue_of(stream), shape.interleaved ? neighbours_kernel<n(), X> : halves_kernel<n(), X>,
                 dim3(blocks_for(threads, kThreads)), kThreads, 0, x, x_TC.stride, turn, static_cast<unsigned>(threads));
        });
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

const RopeKernels rope_cuda = {forward, backward};

}  // namespace moe::cuda
