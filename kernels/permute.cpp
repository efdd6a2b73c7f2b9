// Rows in the order of their experts: plan, gather, combine (kernels.h). A slot is t*K + k, a row a place in the sorted
// order. The plan is one thread's work: two passes over N small integers cost less than waking a second thread and
// merging. Not here: rows that go to other ranks.
#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

// psum_rows_E1 (=) first row of each expert; at most `capacity` rows each if that is not negative.
void count_rows(std::span<const std::int32_t> idx_N, int num_experts, i64 capacity, i64* psum_rows_E1) {
  for (i64 e = 0; e <= num_experts; ++e) psum_rows_E1[e] = 0;
  for (const std::int32_t e : idx_N) ++psum_rows_E1[e + 1];
  for (i64 e = 0; e < num_experts; ++e) {
    const i64 count = psum_rows_E1[e + 1];
    psum_rows_E1[e + 1] = psum_rows_E1[e] + (capacity >= 0 && count > capacity ? capacity : count);
  }
}

std::int64_t plan(Stream& stream, std::span<const std::int32_t> idx_N, int num_experts, std::int64_t capacity,
                  std::int64_t* psum_rows_E1, std::int32_t* slot2row_N, std::int32_t* row2slot_R) {
  const i64 N = static_cast<i64>(idx_N.size());
  require(num_experts >= 1 && num_experts < static_cast<i64>(Stream::kScratchBytes / sizeof(i64)),
          "permute.plan: expected at least one expert, and fewer than fit the scratch memory");
  require(N < (i64{1} << 31), "permute.plan: expected fewer than 2^31 slots");
  expect_range("permute.plan", "expert", idx_N.data(), N, 0, num_experts);
  count_rows(idx_N, num_experts, capacity, psum_rows_E1);
  i64* next_row_E = reinterpret_cast<i64*>(stream.scratch(0));
  for (i64 e = 0; e < num_experts; ++e) next_row_E[e] = psum_rows_E1[e];
  for (i64 slot = 0; slot < N; ++slot) {
    const i64 e = idx_N[static_cast<std::size_t>(slot)];
    const bool kept = next_row_E[e] < psum_rows_E1[e + 1];
    slot2row_N[slot] = kept ? static_cast<std::int32_t>(next_row_E[e]) : -1;
    if (kept) row2slot_R[next_row_E[e]++] = static_cast<std::int32_t>(slot);
  }
  return N - psum_rows_E1[num_experts];
}

void gather(Stream& stream, CMat x_TD, std::span<const std::int32_t> row2slot_R, int top_k, Mat x_RD) {
  const i64 R = x_RD.rows, D = x_TD.cols;
  require(top_k >= 1, "permute.gather: expected top_k >= 1");
  expect_shape("permute.gather", "rows", x_RD, static_cast<i64>(row2slot_R.size()), D);
  expect_range("permute.gather", "slot", row2slot_R.data(), R, 0, x_TD.rows * top_k);
  dispatch(
      [&](auto* x, auto* rows) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, R* D * 8))
        for (i64 r = 0; r < R; ++r) copy_row(x + row2slot_R[r] / top_k * x_TD.stride, rows + r * x_RD.stride, D);
      },
      x_TD, x_RD);
}

// x (=|+=) the sum of the given rows, in their order. The sum is made first, so that += rounds like = and an addition.
template <class Y, class X>
inline void sum_rows(const Y* const* rows, int num_rows, i64 D, X* x, bool add) {
  for_columns(D, [&](i64 j, auto lanes) {
    vf total{};
    for (int k = 0; k < num_rows; ++k) total += load(rows[k] + j, lanes);
    store(x + j, add ? load(x + j, lanes) + total : total, lanes);
  });
}

void combine(Stream& stream, CMat y_RD, std::span<const std::int32_t> slot2row_N, int top_k, Mat x_TD, Store store) {
  const i64 T = x_TD.rows, D = x_TD.cols;
  require(top_k >= 1 && top_k <= static_cast<i64>(Stream::kScratchBytes / sizeof(void*)),
          "permute.combine: expected top_k >= 1, and fewer than fit the scratch memory");
  expect_shape("permute.combine", "x", x_TD, T, D);
  expect_shape("permute.combine", "rows", y_RD, y_RD.rows, D);
  expect_count("permute.combine", "slot2row", static_cast<i64>(slot2row_N.size()), T * top_k);
  expect_range("permute.combine", "row", slot2row_N.data(), T * top_k, -1, y_RD.rows);
  dispatch(
      [&]<class Y, class X>(const Y* y, X* x) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, T* D * 4 * (top_k + 1)))
        for (i64 t = 0; t < T; ++t) {
          const Y** rows = reinterpret_cast<const Y**>(stream.scratch(omp_get_thread_num()));
          int num_rows = 0;
          for (i64 slot = t * top_k; slot < (t + 1) * top_k; ++slot)
            if (slot2row_N[slot] >= 0) rows[num_rows++] = y + slot2row_N[slot] * y_RD.stride;
          sum_rows(rows, num_rows, D, x + t * x_TD.stride, store == Store::kAdd);
        }
      },
      y_RD, x_TD);
}

void gather_values(Stream&, const float* v_N, std::span<const std::int32_t> row2slot_R, float* v_R) {
  for (std::size_t r = 0; r < row2slot_R.size(); ++r) v_R[r] = v_N[row2slot_R[r]];
}

void return_values(Stream&, const float* v_R, std::span<const std::int32_t> slot2row_N, float* v_N) {
  for (std::size_t i = 0; i < slot2row_N.size(); ++i) v_N[i] = slot2row_N[i] < 0 ? 0 : v_R[slot2row_N[i]];
}

}  // namespace

const PermuteKernels permute_cpu = {plan, gather, combine, gather_values, return_values};

}  // namespace moe::MOE_ISA
