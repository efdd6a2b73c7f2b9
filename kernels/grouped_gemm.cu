// Linear maps of experts on CUDA (kernels.h): which of three ways a product is computed, by its dtypes, alignment and rows;
// never by the sizes of the experts, which stay on the device.
// Not here: the ways (grouped_gemm_hopper.cu, grouped_gemm_plain.cu).
#include "kernels/cuda_gemm.h"
#include "kernels/few_rows.h"

namespace moe::cuda {
namespace {

void run(Stream& stream, const GroupedProduct& p) {
  if (p.rows.rows == 0 || p.result.cols == 0 || p.result.rows == 0) return;
  Queue& queue = queue_of(stream);
  if (p.direction == Direction::kForward && p.rows.rows <= kFewRows) return few_rows_product(queue, p);
  fits_hopper(p) ? hopper_product(queue, p) : plain_product(queue, p);
}

int num_experts(const char* op, std::span<const i64> psum) {
  if (psum.empty()) throw std::invalid_argument(std::string(op) + ": expected E + 1 first rows, found none");
  return static_cast<int>(psum.size()) - 1;
}

void forward(Stream& stream, CMat x, CMat w, std::span<const i64> psum, Mat y, Store store) {
  const char* op = "grouped_gemm.forward";
  const int experts = num_experts(op, psum);
  expect_shape(op, "x", x, y.rows, w.cols);
  expect_shape(op, "w", w, experts * y.cols, x.cols);
  expect_shape(op, "y", y, x.rows, y.cols);
  run(stream, {Direction::kForward, x, w, y, psum.data(), experts, store == Store::kAdd});
}

void backward_input(Stream& stream, CMat dy, CMat w, std::span<const i64> psum, Mat dx, Store store) {
  const char* op = "grouped_gemm.backward_input";
  const int experts = num_experts(op, psum);
  expect_shape(op, "dy", dy, dx.rows, dy.cols);
  expect_shape(op, "w", w, experts * dy.cols, dx.cols);
  expect_shape(op, "dx", dx, dy.rows, w.cols);
  run(stream, {Direction::kBackwardInput, dy, w, dx, psum.data(), experts, store == Store::kAdd});
}

void backward_weight(Stream& stream, CMat dy, CMat x, std::span<const i64> psum, Mat dw) {
  const char* op = "grouped_gemm.backward_weight";
  const int experts = num_experts(op, psum);
  expect_f32(op, "dw", dw);
  expect_shape(op, "dy", dy, x.rows, dy.cols);
  expect_shape(op, "x", x, dy.rows, x.cols);
  expect_shape(op, "dw", dw, experts * dy.cols, x.cols);
  run(stream, {Direction::kBackwardWeight, dy, x, dw, psum.data(), experts, true});
}

}  // namespace

const GroupedGemmKernels grouped_gemm_cuda = {forward, backward_input, backward_weight};

}  // namespace moe::cuda
