// Biases of linear maps, of one expert or of many, with the router's gate as a factor of each row (formulas: kernels.h).
// Not here: the maps; grouped_gemm says how rows are grouped.
#include <algorithm>

#include "kernels/cpu.h"
#include "kernels/dispatch.h"

namespace moe::MOE_ISA {
namespace {

// Experts of N elements each, rows [psum[e], psum[e + 1]) of a matrix of `rows`.
struct Groups {
  std::span<const std::int64_t> psum;
  i64 rows;
  i64 count() const { return psum.empty() ? 1 : static_cast<i64>(psum.size()) - 1; }
  i64 begin(i64 e) const { return psum.empty() ? 0 : psum[static_cast<std::size_t>(e)]; }
  i64 end(i64 e) const { return psum.empty() ? rows : psum[static_cast<std::size_t>(e) + 1]; }
};

Groups checked(const char* op, const CMat& rows, std::span<const std::int64_t> psum, const CMat& bias) {
  const Groups groups{psum, rows.rows};
  expect_count(op, "the bias", bias.rows * bias.cols, groups.count() * rows.cols);
  expect_count(op, "rows of a bias that lie apart", bias.rows > 1 ? bias.stride - bias.cols : 0, 0);
  expect_count(op, "the last of psum_rows_E1", groups.end(groups.count() - 1), rows.rows);
  return groups;
}

template <class B, class Y>
inline void put_row(const B* b, i64 N, float gate, Y* y, Store how) {
  for_columns(N, [&](i64 j, auto lanes) {
    const vf v = splat(gate) * load(b + j, lanes);
    store(y + j, how == Store::kAdd ? load(y + j, lanes) + v : v, lanes);
  });
}

// f(e, r) for every row r and its expert e, in parallel.
template <class F>
void for_rows(Stream& stream, const Groups& groups, i64 bytes, F f) {
#pragma omp parallel num_threads(threads_for(stream, bytes))
  {
    const i64 thread = omp_get_thread_num(), threads = omp_get_num_threads();
    i64 e = 0;
    for (i64 r = groups.rows * thread / threads; r < groups.rows * (thread + 1) / threads; ++r) {
      while (r >= groups.end(e)) ++e;
      f(e, r);
    }
  }
}

void forward(Stream& stream, CMat b_EN, std::span<const std::int64_t> psum, const float* gate_R, Mat y_RN, Store how) {
  const Groups groups = checked("bias.forward", y_RN, psum, b_EN);
  const i64 N = y_RN.cols;
  dispatch(
      [&](auto* b, auto* y) {
        for_rows(stream, groups, y_RN.rows * N * 8,
                 [&](i64 e, i64 r) { put_row(b + e * N, N, gate_R ? gate_R[r] : 1.0f, y + r * y_RN.stride, how); });
      },
      b_EN, y_RN);
}

void backward_gate(Stream& stream, CMat dy_RN, CMat b_EN, std::span<const std::int64_t> psum, float* dgate_R) {
  const Groups groups = checked("bias.backward_gate", dy_RN, psum, b_EN);
  const i64 N = dy_RN.cols;
  dispatch(
      [&](auto* b, auto* dy) {
        for_rows(stream, groups, dy_RN.rows * N * 4, [&](i64 e, i64 r) {
          dgate_R[r] += sum_columns(
              N, [&](i64 j, auto lanes) { return load(b + e * N + j, lanes) * load(dy + r * dy_RN.stride + j, lanes); });
        });
      },
      b_EN, dy_RN);
}

constexpr i64 kColumns = 4 * kWidth;  // of a task: its rows are read in pieces of several cache lines
constexpr i64 kRowBlock = 128;        // rows whose sum is taken apart, so that errors do not grow with all rows

// db[j] += sum of gate * dy[r][j] over rows [begin, end), for n <= kColumns columns.
template <class DY>
void add_columns(const DY* dy, i64 stride, i64 begin, i64 end, i64 n, const float* gate_R, float* db) {
  for (i64 first = begin; first < end; first += kRowBlock) {
    float block[kColumns] = {};
    for (i64 r = first; r < std::min(end, first + kRowBlock); ++r) {
      const vf gate = splat(gate_R ? gate_R[r] : 1.0f);
      for_columns(n, [&](i64 j, auto lanes) {
        store(block + j, load(block + j, lanes) + gate * load(dy + r * stride + j, lanes), lanes);
      });
    }
    for_columns(n, [&](i64 j, auto lanes) { store(db + j, load(db + j, lanes) + load(block + j, lanes), lanes); });
  }
}

void backward_weight(Stream& stream, CMat dy_RN, std::span<const std::int64_t> psum, const float* gate_R, Mat db_EN) {
  const Groups groups = checked("bias.backward_weight", dy_RN, psum, db_EN);
  expect_f32("bias.backward_weight", "db", db_EN);
  const i64 N = dy_RN.cols, parts = (N + kColumns - 1) / kColumns;
  dispatch(
      [&](auto* dy) {
#pragma omp parallel for schedule(static) num_threads(threads_for(stream, dy_RN.rows* N * 4))
        for (i64 task = 0; task < groups.count() * parts; ++task) {
          const i64 e = task / parts, j = task % parts * kColumns;
          add_columns(dy + j, dy_RN.stride, groups.begin(e), groups.end(e), std::min(kColumns, N - j), gate_R,
                      db_EN.f32() + e * N + j);
        }
      },
      dy_RN);
}

}  // namespace

const BiasKernels bias_cpu = {forward, backward_gate, backward_weight};

}  // namespace moe::MOE_ISA
