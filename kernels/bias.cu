// Biases of linear maps on CUDA, of one expert or of many, with the router's gate as a factor of each row (formulas:
// kernels.h). Where an expert's rows lie only the device knows. Not here: the maps.
#include "kernels/cuda_columns.h"

namespace moe::cuda {
namespace {

constexpr int kKept = 4;  // packs of a row that a thread has

i64 experts_of(std::span<const std::int64_t> psum) { return psum.empty() ? 1 : static_cast<i64>(psum.size()) - 1; }

void check(const char* op, const CMat& rows, std::span<const std::int64_t> psum, const CMat& bias) {
  expect_count(op, "the bias", bias.rows * bias.cols, experts_of(psum) * rows.cols);
  expect_count(op, "rows of a bias that lie apart", bias.rows > 1 ? bias.stride - bias.cols : 0, 0);
}
// As one row, so that its columns are counted and its rows need not be aligned.
CMat flat(const CMat& bias) { return {bias.data, bias.dtype, 1, bias.rows * bias.cols, bias.rows * bias.cols}; }

// The expert that owns row r: the last one that begins at or before it and is not empty.
struct Experts {
  const i64* psum;
  unsigned count;
  __device__ unsigned of(i64 r) const {
    unsigned low = 0, high = count;  // psum[low] <= r < psum[high]
    while (psum && high - low > 1) {
      const unsigned mid = (low + high) / 2;
      (psum[mid] <= r ? low : high) = mid;
    }
    return low;
  }
};
Experts experts(std::span<const std::int64_t> psum) {
  return {psum.empty() ? nullptr : psum.data(), static_cast<unsigned>(experts_of(psum))};
}

template <int kN, class Y>
__global__ void __launch_bounds__(kMostThreads, 1)
    forward_kernel(Either b, Experts experts, const float* __restrict__ gate, Y* y, i64 stride, bool add, unsigned rows,
                   unsigned width, unsigned team) {
  const Member me(team);
  if (me.row >= rows) return;
  const unsigned n = width / kN;
  Y* const to = y + me.row * stride;
  const Kept<kKept, kN, Y> old(to, add ? n : 0, me);
  const float factor = gate ? gate[me.row] : 1.0f;
  const i64 begin = i64{experts.of(me.row)} * width;
  walk<kKept>(n, me, [&](int i, unsigned j) {
    float v[kN], was[kN] = {};
    b.load(begin + i64{j} * kN, v);
    if (add) old.get(i, j, was);
#pragma unroll
    for (int c = 0; c < kN; ++c) v[c] = add ? was[c] + factor * v[c] : factor * v[c];
    store_floats(to + i64{j} * kN, v);
  });
}

void forward(Stream& stream, CMat b_EN, std::span<const std::int64_t> psum, const float* gate_R, Mat y_RN, Store store) {
  check("bias.forward", y_RN, psum, b_EN);
  dispatch(
      [&]<class Y>(Y* y) {
        with_packs<Y>({flat(b_EN), y_RN}, {y_RN.cols}, [&](auto n) {
          const Teams teams = teams_for(y_RN.rows, y_RN.cols / n(), kKept);
          launch(queue_of(stream), forward_kernel<n(), Y>, dim3(teams.blocks), teams.threads, 0, Either(b_EN), experts(psum),
                 gate_R, y, y_RN.stride, store == Store::kAdd, static_cast<unsigned>(y_RN.rows),
                 static_cast<unsigned>(y_RN.cols), teams.size);
        });
      },
      y_RN);
}

template <int kN, class DY>
__global__ void __launch_bounds__(kMostThreads, 1)
    backward_gate_kernel(const DY* __restrict__ dy, i64 stride, Either b, Experts experts, float* dgate, unsigned rows,
                         unsigned width, unsigned team) {
  const Member me(team);
  const unsigned n = me.row < rows ? width / kN : 0;
  const Kept<kKept, kN, DY> row(dy + me.row * stride, n, me);
  const i64 begin = n > 0 ? i64{experts.of(me.row)} * width : 0;
  float sum = 0;
  walk<kKept>(n, me, [&](int i, unsigned j) {
    float d[kN], v[kN];
    row.get(i, j, d), b.load(begin + i64{j} * kN, v);
#pragma unroll
    for (int c = 0; c < kN; ++c) sum += d[c] * v[c];
  });
  sum = me.sum(sum);
  if (n > 0 && me.lane == 0) dgate[me.row] += sum;
}

void backward_gate(Stream& stream, CMat dy_RN, CMat b_EN, std::span<const std::int64_t> psum, float* dgate_R) {
  check("bias.backward_gate", dy_RN, psum, b_EN);
  dispatch(
      [&]<class DY>(const DY* dy) {
        with_packs<DY>({flat(b_EN), dy_RN}, {dy_RN.cols}, [&](auto n) {
          const Teams teams = teams_for(dy_RN.rows, dy_RN.cols / n(), kKept);
          launch(queue_of(stream), backward_gate_kernel<n(), DY>, dim3(teams.blocks), teams.threads, 0, dy, dy_RN.stride,
                 Either(b_EN), experts(psum), dgate_R, static_cast<unsigned>(dy_RN.rows), static_cast<unsigned>(dy_RN.cols),
                 teams.size);
        });
      },
      dy_RN);
}

// gate * dy of row r.
template <class DY>
struct WeightTerm {
  const DY* dy;
  const float* gate;
  i64 stride;
  template <int kN>
  __device__ void operator()(i64 r, i64 j, float (&v)[kN]) const {
    load_floats(dy + r * stride + j, v);
    const float factor = gate ? gate[r] : 1.0f;
#pragma unroll
    for (int c = 0; c < kN; ++c) v[c] *= factor;
  }
};

void backward_weight(Stream& stream, CMat dy_RN, std::span<const std::int64_t> psum, const float* gate_R, Mat db_EN) {
  check("bias.backward_weight", dy_RN, psum, db_EN);
  expect_f32("bias.backward_weight", "db", db_EN);
  dispatch(
      [&]<class DY>(const DY* dy) {
        with_packs<DY>({dy_RN}, {dy_RN.cols}, [&](auto n) {
          add_columns<n()>(queue_of(stream), WeightTerm<DY>{dy, gate_R, dy_RN.stride}, {experts(psum).psum, dy_RN.rows},
                           experts_of(psum), dy_RN.cols, db_EN.f32());
        });
      },
      dy_RN);
}

}  // namespace

const BiasKernels bias_cuda = {forward, backward_gate, backward_weight};

}  // namespace moe::cuda
