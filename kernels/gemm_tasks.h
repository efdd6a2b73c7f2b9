// The six products of kernels.h as lists of Products, and their cut into tasks (rows x columns of one C) that the threads
// take largest first. Who multiplies a task is the caller's: Way::run_task(task, scratch), and Way::reads_b_once(product)
// where reading B is all the work. Included by gemm.cpp and gemm_amx.cpp only. Not here: arithmetic.
#pragma once

#include <omp.h>

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/few_rows.h"
#include "kernels/gemm_pack.h"

namespace moe::MOE_ISA {

using Int = std::int64_t;

constexpr Int kTaskSize = 512;  // rows and columns of a task at most
constexpr std::size_t kEnoughTasks = 8;
constexpr Int kMinWork = 1 << 20;  // multiply-adds worth handing to another thread

// c (=|+=) a b with a [m, k], b [k, n].
struct Product {
  Operand a, b;
  Mat c;
  Int m, n, k;
  Store store;
};

// Rows [i0, i0 + m) and columns [j0, j0 + n) of the C of a product.
struct Task {
  const Product* product;
  Int i0, m, j0, n;
};

// The way of gemm.cpp, which takes all dtypes.
struct OnVectors {
  static void run_task(const Task& task, float* scratch);
  static bool reads_b_once(const Product& product);  // few rows
};

// What was summed in scratch goes to its place, rounded once if that is bf16.
template <class T>
static inline void round_into(const float* src, Int src_stride, Int m, Int n, T* dst, Int dst_stride, Store how) {
  for (Int i = 0; i < m; ++i, src += src_stride, dst += dst_stride) {
    Int j = 0;
    for (; j + kWidth <= n; j += kWidth) store(dst + j, how == Store::kAdd ? load(dst + j) + load(src + j) : load(src + j));
    for (; j < n; ++j) store_one(dst + j, how == Store::kAdd ? load_one(dst + j) + src[j] : src[j]);
  }
}

// A sum over nothing: zeros, or nothing to add.
static inline void clear(const Product& p) {
  if (p.store == Store::kAdd) return;
  for (Int i = 0; i < p.m; ++i) std::memset(p.c.row(i), 0, static_cast<std::size_t>(p.n) * size_of(p.c.dtype));
}

// Cuts a product into tasks of at most `most` rows and columns, as equal as can be. By shapes only, never by the number of
// threads: the library may sum in another order for another shape.
static inline void cut_into_tasks(const Product& p, Int most, std::vector<Task>& tasks) {
  const EvenCut rows(p.m, most), vectors((p.n + kNR - 1) / kNR, most / kNR);  // columns in whole panels
  for (Int r = 0; r < rows.parts; ++r)
    for (Int v = 0; v < vectors.parts; ++v) {
      const Int j = vectors.begin(v) * kNR;
      tasks.push_back({&p, rows.begin(r), rows.size(r), j, std::min(vectors.size(v) * kNR, p.n - j)});
    }
}

// Every product in large tasks, which pack their operands seldom; smaller ones where that would be too few to share.
static inline std::vector<Task> tasks_of(const std::vector<Product>& products) {
  std::vector<Task> tasks;
  for (const Int most : {kTaskSize, kTaskSize / 2, kTaskSize / 4}) {
    tasks.clear();
    for (const Product& p : products) p.k == 0 ? clear(p) : cut_into_tasks(p, most, tasks);
    if (tasks.size() >= kEnoughTasks) break;
  }
  std::stable_sort(tasks.begin(), tasks.end(),
                   [](const Task& a, const Task& b) { return a.m * a.n * a.product->k > b.m * b.n * b.product->k; });
  return tasks;
}

template <class Way>
void run(Stream& stream, const std::vector<Product>& products) {
  Int total = 0;  // of few rows the reading of B counts, not the products
  for (const Product& p : products) total += (Way::reads_b_once(p) ? kFewRows : p.m) * p.n * p.k;
  const int threads = stream.num_threads();
  const std::vector<Task> tasks = tasks_of(products);
  const auto scratch = [&] { return reinterpret_cast<float*>(stream.scratch(omp_get_thread_num())); };
  if (threads == 1 || tasks.size() == 1 || total < kMinWork) {
    for (const Task& task : tasks) Way::run_task(task, reinterpret_cast<float*>(stream.scratch(0)));
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
  for (std::size_t i = 0; i < tasks.size(); ++i) Way::run_task(tasks[i], scratch());
}

static inline void require_shapes(bool fits, const char* operation, const CMat& a, const CMat& b, const CMat& c) {
  if (fits) return;
  char text[256];
  const auto number = [](Int n) { return static_cast<long long>(n); };
  std::snprintf(text, sizeof text, "%s: shapes [%lld, %lld] [%lld, %lld] [%lld, %lld] do not fit", operation, number(a.rows),
                number(a.cols), number(b.rows), number(b.cols), number(c.rows), number(c.cols));
  throw std::invalid_argument(text);
}

// The bounds of the experts' rows rise from 0 to the number of rows.
static inline bool covers(std::span<const Int> psum, Int rows) {
  return !psum.empty() && psum.front() == 0 && psum.back() == rows && std::is_sorted(psum.begin(), psum.end());
}

// The operands of the six operations for rows [r, r + m) of the tokens and `out` rows of the weights.
static inline Product forward_product(CMat x, CMat w, Mat y, Store store) {
  return {operand(x, false), operand(w, true), y, x.rows, w.rows, x.cols, store};
}
static inline Product backward_input_product(CMat dy, CMat w, Mat dx, Store store) {
  return {operand(dy, false), operand(w, false), dx, dy.rows, w.cols, w.rows, store};
}
static inline Product backward_weight_product(CMat dy, CMat x, Mat dw) {
  return {operand(dy, true), operand(x, false), dw, dy.cols, x.cols, dy.rows, Store::kAdd};
}

template <class Way>
void forward(Stream& stream, CMat x, CMat w, Mat y, Store store) {
  require_shapes(x.rows == y.rows && x.cols == w.cols && w.rows == y.cols, "gemm forward (x, w, y)", x, w, y);
  run<Way>(stream, {forward_product(x, w, y, store)});
}

template <class Way>
void backward_input(Stream& stream, CMat dy, CMat w, Mat dx, Store store) {
  require_shapes(dy.rows == dx.rows && dy.cols == w.rows && w.cols == dx.cols, "gemm backward_input (dy, w, dx)", dy, w, dx);
  run<Way>(stream, {backward_input_product(dy, w, dx, store)});
}

template <class Way>
void backward_weight(Stream& stream, CMat dy, CMat x, Mat dw) {
  require_shapes(dy.rows == x.rows && dy.cols == dw.rows && x.cols == dw.cols && dw.dtype == DType::kF32,
                 "gemm backward_weight (dy, x, f32 dw)", dy, x, dw);
  run<Way>(stream, {backward_weight_product(dy, x, dw)});
}

// One product for each expert that owns rows; each gets its first row, its number of rows and its index.
template <class Way, class MakeProduct>
void run_experts(Stream& stream, std::span<const Int> psum, const MakeProduct& make) {
  std::vector<Product> products;
  for (std::size_t e = 0; e + 1 < psum.size(); ++e)
    if (psum[e + 1] > psum[e]) products.push_back(make(psum[e], psum[e + 1] - psum[e], static_cast<Int>(e)));
  run<Way>(stream, products);
}

template <class Way>
void grouped_forward(Stream& stream, CMat x, CMat w, std::span<const Int> psum, Mat y, Store store) {
  const Int experts = static_cast<Int>(psum.size()) - 1, out = y.cols;
  require_shapes(covers(psum, x.rows) && x.rows == y.rows && x.cols == w.cols && w.rows == experts * out,
                 "grouped gemm forward (x, w, y)", x, w, y);
  run_experts<Way>(stream, psum, [&](Int row, Int m, Int e) {
    return forward_product(x.slice_rows(row, m), w.slice_rows(e * out, out), y.slice_rows(row, m), store);
  });
}

template <class Way>
void grouped_backward_input(Stream& stream, CMat dy, CMat w, std::span<const Int> psum, Mat dx, Store store) {
  const Int experts = static_cast<Int>(psum.size()) - 1, out = dy.cols;
  require_shapes(covers(psum, dy.rows) && dy.rows == dx.rows && w.cols == dx.cols && w.rows == experts * out,
                 "grouped gemm backward_input (dy, w, dx)", dy, w, dx);
  run_experts<Way>(stream, psum, [&](Int row, Int m, Int e) {
    return backward_input_product(dy.slice_rows(row, m), w.slice_rows(e * out, out), dx.slice_rows(row, m), store);
  });
}

template <class Way>
void grouped_backward_weight(Stream& stream, CMat dy, CMat x, std::span<const Int> psum, Mat dw) {
  const Int experts = static_cast<Int>(psum.size()) - 1, out = dy.cols;
  require_shapes(
      covers(psum, dy.rows) && dy.rows == x.rows && dw.cols == x.cols && dw.rows == experts * out && dw.dtype == DType::kF32,
      "grouped gemm backward_weight (dy, x, f32 dw)", dy, x, dw);
  run_experts<Way>(stream, psum, [&](Int row, Int m, Int e) {
    return backward_weight_product(dy.slice_rows(row, m), x.slice_rows(row, m), dw.slice_rows(e * out, out));
  });
}

template <class Way>
constexpr GemmKernels kGemmOf = {forward<Way>, backward_input<Way>, backward_weight<Way>};
template <class Way>
constexpr GroupedGemmKernels kGroupedGemmOf = {grouped_forward<Way>, grouped_backward_input<Way>,
                                               grouped_backward_weight<Way>};

}  // namespace moe::MOE_ISA
