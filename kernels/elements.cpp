// Elements by themselves: copies that round, widen, add or move rows, and swaps (kernels.h).
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

void copy(Stream& stream, CMat from, Mat to, Store mode) {
  expect_shape("elements.copy", "from", from, to.rows, to.cols);
  expect_shape("elements.copy", "to", to, to.rows, to.cols);
  dispatch(
      [&](auto* a, auto* b) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, to.rows* to.cols * 8))
        for (i64 i = 0; i < to.rows; ++i) {
          if (mode == Store::kAssign)
            copy_row(a + i * from.stride, b + i * to.stride, to.cols);
          else
            for_columns(to.cols, [&](i64 j, auto n) {
              store(b + i * to.stride + j, load(b + i * to.stride + j, n) + load(a + i * from.stride + j, n), n);
            });
        }
      },
      from, to);
}

void copy_rows(Stream& stream, CMat from, const i64* from_row_N, Mat to, const i64* to_row_N, i64 N) {
  expect_same_rows("elements.copy_rows", from, to);
  const auto bytes = static_cast<std::size_t>(to.cols) * size_of(to.dtype);
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, N * to.cols * 8))
  for (i64 i = 0; i < N; ++i)
    std::memcpy(to.row(to_row_N ? to_row_N[i] : i), from.row(from_row_N ? from_row_N[i] : i), bytes);
}

void swap(Stream& stream, std::span<float> a, std::span<float> b) {
  const i64 n = static_cast<i64>(a.size());
  expect_count("elements.swap", "b", static_cast<i64>(b.size()), n);
  float *p = a.data(), *q = b.data();
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, n * 16))
  for (i64 i = 0; i < n; ++i) {
    const float v = p[i];
    p[i] = q[i];
    q[i] = v;
  }
}

constexpr i64 kSumBlock = 2048;  // floats that are summed while they stay in the L1 cache

void sum_block(std::span<const float* const> from, i64 at, i64 n, float* to, Store mode) {
  float block[kSumBlock];
  std::memcpy(block, from[0] + at, sizeof(float) * static_cast<std::size_t>(n));
  for (std::size_t r = 1; r < from.size(); ++r)
    for_columns(n,
                [&](i64 i, auto lanes) { store(block + i, load(block + i, lanes) + load(from[r] + at + i, lanes), lanes); });
  for_columns(n, [&](i64 i, auto lanes) {
    const vf v = load(block + i, lanes);
    store(to + at + i, mode == Store::kAdd ? load(to + at + i, lanes) + v : v, lanes);
  });
}

void sum(Stream& stream, std::span<const float* const> from, std::int64_t n, float* to, Store mode) {
  require(!from.empty(), "elements.sum: expected at least one vector");
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, n * 4 * static_cast <i64>(from.size())))
  for (i64 at = 0; at < n; at += kSumBlock) sum_block(from, at, n - at < kSumBlock ? n - at : kSumBlock, to, mode);
}

}  // namespace

const ElementKernels elements_cpu = {copy, copy_rows, swap, sum};

}  // namespace moe::MOE_ISA
