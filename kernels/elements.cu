// Elements by themselves on CUDA (kernels.h).
#include "kernels/cuda_elements.h"
#include "kernels/cuda_rows.h"

namespace moe::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr i64 kMostBlocks = 4096;

template <class A, class B>
__global__ void copy_kernel(const A* from, i64 from_stride, B* to, i64 to_stride, i64 rows, i64 cols, bool add) {
  const i64 n = rows * cols, step = i64{gridDim.x} * blockDim.x;
  for (i64 at = i64{blockIdx.x} * blockDim.x + threadIdx.x; at < n; at += step) {
    const i64 i = at / cols, j = at % cols;
    B* const b = to + i * to_stride + j;
    const float v = to_f32(from[i * from_stride + j]);
    put(b, add ? to_f32(*b) + v : v);
  }
}

template <class A, class B>
struct DenseCopy {
  const A* from;
  B* to;
  bool add;
  template <int kN>
  __device__ void run(i64 i) const {
    float v[kN], old[kN];
    load_floats(from + i, v);
    if (add) load_floats(to + i, old);
#pragma unroll
    for (int c = 0; c < kN; ++c) v[c] = add ? old[c] + v[c] : v[c];
    store_floats(to + i, v);
  }
};

// Rows that lie side by side are one row.
bool is_dense(const CMat& m) { return m.stride == m.cols || m.rows <= 1; }

void copy(Stream& stream, CMat from, Mat to, Store store) {
  expect_shape("elements.copy", "from", from, to.rows, to.cols);
  expect_shape("elements.copy", "to", to, to.rows, to.cols);
  if (from.dtype == to.dtype && store == Store::kAssign && is_dense(from) && is_dense(to))
    return stream.copy(to.data, from.data, static_cast<std::size_t>(to.rows * to.cols) * size_of(to.dtype));
  const unsigned blocks = blocks_for(to.rows * to.cols, kThreads);
  dispatch(
      [&]<class A, class B>(const A* a, B* b) {
        if (is_dense(from) && is_dense(to))
          return for_elements(queue_of(stream), to.rows * to.cols,
                              fits_pack(a, 4 * sizeof(A)) && fits_pack(b, 4 * sizeof(B)),
                              DenseCopy<A, B>{a, b, store == Store::kAdd});
        launch(queue_of(stream), copy_kernel<A, B>, dim3(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0, a,
               from.stride, b, to.stride, to.rows, to.cols, store == Store::kAdd);
      },
      from, to);
}

template <class T>
__global__ void copy_rows_kernel(const T* from, i64 from_stride, const i64* from_row_N, T* to, i64 to_stride,
                                 const i64* to_row_N, i64 N, i64 cols) {
  const i64 n = N * cols, step = i64{gridDim.x} * blockDim.x;
  for (i64 at = i64{blockIdx.x} * blockDim.x + threadIdx.x; at < n; at += step) {
    const i64 i = at / cols, j = at % cols;
    to[(to_row_N ? to_row_N[i] : i) * to_stride + j] = from[(from_row_N ? from_row_N[i] : i) * from_stride + j];
  }
}

void copy_rows(Stream& stream, CMat from, const i64* from_row_N, Mat to, const i64* to_row_N, i64 N) {
  expect_same_rows("elements.copy_rows", from, to);
  const unsigned blocks = blocks_for(N * to.cols, kThreads);
  dispatch(
      [&]<class T>(T* b) {
        launch(queue_of(stream), copy_rows_kernel<T>, dim3(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0,
               static_cast<const T*>(from.data), from.stride, from_row_N, b, to.stride, to_row_N, N, to.cols);
      },
      to);
}

__global__ void swap_kernel(float* a, float* b, i64 n) {
  for (i64 i = i64{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += i64{gridDim.x} * blockDim.x) {
    const float v = a[i];
    a[i] = b[i];
    b[i] = v;
  }
}

void swap(Stream& stream, std::span<float> a, std::span<float> b) {
  const i64 n = static_cast<i64>(a.size());
  expect_count("elements.swap", "b", static_cast<i64>(b.size()), n);
  const unsigned blocks = blocks_for(n, kThreads);
  launch(queue_of(stream), swap_kernel, dim3(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0, a.data(), b.data(),
         n);
}

__global__ void sum_kernel(const float* const* from, int count, i64 n, float* to, bool add) {
  for (i64 i = i64{blockIdx.x} * blockDim.x + threadIdx.x; i < n; i += i64{gridDim.x} * blockDim.x) {
    float v = from[0][i];
    for (int r = 1; r < count; ++r) v += from[r][i];
    to[i] = add ? to[i] + v : v;
  }
}

void sum(Stream& stream, std::span<const float* const> from, std::int64_t n, float* to, Store store) {
  require(!from.empty(), "elements.sum: expected at least one vector");
  Queue& q = queue_of(stream);
  auto* list = q.scratch_of<const float*>(static_cast<i64>(from.size()));
  stream.copy(list, from.data(), from.size_bytes());
  const unsigned blocks = blocks_for(n, kThreads);
  launch(q, sum_kernel, dim3(blocks < kMostBlocks ? blocks : kMostBlocks), kThreads, 0, list, static_cast<int>(from.size()),
         n, to, store == Store::kAdd);
}

}  // namespace

const ElementKernels elements_cuda = {copy, copy_rows, swap, sum};

}  // namespace moe::cuda
