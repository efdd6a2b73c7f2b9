// Linear maps on CUDA (kernels.h): few rows by our own kernel (kernels/few_rows.h), all else by cuBLAS, fp32 in fp32 (no
// TF32) and bf16 with sums in fp32. Every queue has its own handle with a workspace of fixed size, so that a shape always
// meets the same algorithm and gives the same bits.
// cuBLAS multiplies operands of one dtype. An fp32 operand beside one of bf16 becomes the sum of three of bf16, which holds
// its 24 bits exactly (three products, the sums in fp32), unless it is wide: the gradient of the logits, V columns. That
// one is rounded to bf16 once, as are all other gradients of activations in bf16 training: its elements are softmax -
// onehot, of which no digit beyond the eighth matters beside the noise of a batch, and three products would triple the
// head's cost. Not here: experts (grouped_gemm.cu).
#include <cublas_v2.h>

#include <algorithm>
#include <array>

#include "kernels/cuda_gemm.h"
#include "kernels/few_rows.h"

namespace moe::cuda {
namespace {

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what cuBLAS wants on Hopper
constexpr i64 kWide = 4096;                                     // columns
constexpr int kParts = 3;
constexpr i64 kMostPartElements = i64{1} << 27;  // of scratch at a time

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string("CUDA: ") + what + ": " + cublasGetStatusString(status));
}

struct Blas {
  cublasHandle_t handle = nullptr;
  void* workspace = nullptr;
};

cublasHandle_t blas_of(Queue& queue) {
  if (queue.blas) return static_cast<Blas*>(queue.blas)->handle;
  auto* const blas = new Blas;
  queue.blas = blas;
  check_blas(cublasCreate(&blas->handle), "cuBLAS");
  check(cudaMalloc(&blas->workspace, kWorkspaceBytes), "cuBLAS workspace");
  check_blas(cublasSetStream(blas->handle, queue.stream), "cuBLAS");  // before the workspace, which it takes away
  check_blas(cublasSetWorkspace(blas->handle, blas->workspace, kWorkspaceBytes), "cuBLAS");
  // Partial sums of a bf16 result stay in fp32: it is rounded once.
  check_blas(cublasSetMathMode(blas->handle, static_cast<cublasMath_t>(CUBLAS_DEFAULT_MATH |
                                                                       CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION)),
             "cuBLAS");
  return blas->handle;
}

// D [M, N] (=|+=) L [M, I] R [I, N], where `left` is stored [M, I], or [I, M] if it is turned, and `right` [I, N] or [N, I].
struct Product {
  CMat left;
  bool left_turned;
  CMat right;
  bool right_turned;
  Mat result;
  bool add;
  i64 inner() const { return left_turned ? left.rows : left.cols; }
};

cudaDataType_t type_of(DType t) { return t == DType::kF32 ? CUDA_R_32F : CUDA_R_16BF; }
i64 leading(const CMat& m) { return std::max({m.stride, m.cols, i64{1}}); }

// Operands of one dtype, a result of the same or of fp32. cuBLAS counts by columns: it computes D^T = R^T L^T.
void multiply(Queue& queue, const Product& p) {
  const float one = 1, beta = p.add ? 1.0f : 0.0f;
  check_blas(
      cublasGemmEx_64(blas_of(queue), p.right_turned ? CUBLAS_OP_T : CUBLAS_OP_N, p.left_turned ? CUBLAS_OP_T : CUBLAS_OP_N,
                      p.result.cols, p.result.rows, p.inner(), &one, p.right.data, type_of(p.right.dtype), leading(p.right),
                      p.left.data, type_of(p.left.dtype), leading(p.left), &beta, p.result.data, type_of(p.result.dtype),
                      leading(p.result), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "gemm");
}

// ---- Operands of two dtypes

// part 0 is v rounded, part 1 what that leaves, rounded, ...; infinities and not-a-number stay in part 0.
template <int kWidth>
__global__ void split_kernel(const float* from, i64 stride, i64 rows, i64 cols, int num_parts, BF16* to, i64 to_stride) {
  const i64 across = cols / kWidth, part_size = rows * to_stride, step = i64{gridDim.x} * blockDim.x;
  for (i64 at = i64{blockIdx.x} * blockDim.x + threadIdx.x; at < rows * across; at += step) {
    const i64 i = at / across, j = at % across * kWidth;
    auto rest = *reinterpret_cast<const Pack<kWidth, float>*>(from + i * stride + j);
    for (int part = 0; part < num_parts; ++part) {
      Pack<kWidth, BF16> rounded;
      for (int e = 0; e < kWidth; ++e) {
        rounded.v[e] = round_bf16(rest.v[e]);
        const float left = rest.v[e] - to_f32(rounded.v[e]);
        rest.v[e] = isfinite(left) ? left : 0.0f;
      }
      *reinterpret_cast<Pack<kWidth, BF16>*>(to + part * part_size + i * to_stride + j) = rounded;
    }
  }
}

i64 padded(i64 cols) { return (cols + 7) / 8 * 8; }

// num_parts matrices of bf16, one after the other at `to`, whose sum is m (three), or m rounded (one).
std::array<CMat, kParts> split(Queue& queue, const CMat& m, int num_parts, BF16* to) {
  constexpr unsigned kThreads = 256, kMostBlocks = 4096;
  const i64 stride = padded(m.cols);
  const bool wide = aligned16(m.f32(), m.rows > 1 ? m.stride : 0) && m.cols % 4 == 0;
  const unsigned blocks = std::min(blocks_for(m.rows * m.cols / (wide ? 4 : 1), kThreads), kMostBlocks);
  launch(queue, wide ? split_kernel<4> : split_kernel<1>, blocks, kThreads, 0, m.f32(), m.stride, m.rows, m.cols, num_parts,
         to, stride);
  std::array<CMat, kParts> parts;
  for (int i = 0; i < num_parts; ++i)
    parts[static_cast<std::size_t>(i)] = {to + i * m.rows * stride, DType::kBF16, m.rows, m.cols, stride};
  return parts;
}

// The part of a product for some rows (of a left operand in fp32) or columns (of a right one) of D.
Product slice(Product p, bool left, i64 begin, i64 n) {
  if (left) {
    p.left = p.left_turned ? p.left.slice_cols(begin, n) : p.left.slice_rows(begin, n);
    p.result = p.result.slice_rows(begin, n);
  } else {
    p.right = p.right_turned ? p.right.slice_rows(begin, n) : p.right.slice_cols(begin, n);
    p.result = p.result.slice_cols(begin, n);
  }
  return p;
}

// One operand in fp32, one in bf16; the result in fp32, or in bf16 from a single part.
void multiply_mixed(Queue& queue, const Product& p, BF16* scratch, i64 at_once) {
  const bool left = p.left.dtype == DType::kF32;
  const i64 all = left ? p.result.rows : p.result.cols;
  for (i64 begin = 0; begin < all; begin += at_once) {
    Product some = slice(p, left, begin, std::min(at_once, all - begin));
    CMat& operand = left ? some.left : some.right;
    const int num_parts = (left ? p.left : p.right).cols > kWide ? 1 : kParts;
    const auto parts = split(queue, operand, num_parts, scratch);
    for (int i = 0; i < num_parts; ++i, some.add = true) {
      operand = parts[static_cast<std::size_t>(i)];
      multiply(queue, some);
    }
  }
}

// How many rows (or columns) of D are done at once, and the scratch for them, in elements of all parts.
struct PartsPlan {
  i64 at_once = 0, elements = 0;
};
PartsPlan plan_parts(const Product& p) {
  if (p.left.dtype == p.right.dtype) return {};
  const bool left = p.left.dtype == DType::kF32;
  const CMat& m = left ? p.left : p.right;
  const i64 all = left ? p.result.rows : p.result.cols, each = padded(p.inner()) * (m.cols > kWide ? 1 : kParts);
  const i64 at_once = std::min(all, std::max(i64{128}, kMostPartElements / each / 128 * 128));
  const bool turned = left ? p.left_turned : !p.right_turned;  // slices are columns of m
  return {at_once, turned ? p.inner() * padded(at_once) * (m.cols > kWide ? 1 : kParts) : at_once * each};
}

// Any dtypes. A result in bf16 that cuBLAS would not write, or would round twice, goes through fp32.
void run(Stream& stream, const Product& p) {
  if (p.result.rows == 0 || p.result.cols == 0) return;
  Queue& queue = queue_of(stream);
  const bool mixed = p.left.dtype != p.right.dtype, all_bf16 = p.left.dtype == DType::kBF16 && !mixed;
  const bool detour = p.result.dtype == DType::kBF16 && !all_bf16;
  const PartsPlan plan = plan_parts(p);
  const std::size_t result_bytes =
      detour ? static_cast<std::size_t>(p.result.rows * padded(p.result.cols)) * sizeof(float) : 0;
  std::byte* scratch = nullptr;
  if (detour || mixed)
    scratch = static_cast<std::byte*>(queue.scratch(result_bytes + static_cast<std::size_t>(plan.elements) * sizeof(BF16)));
  Product q = p;
  if (detour) q.result = {scratch, DType::kF32, p.result.rows, p.result.cols, padded(p.result.cols)}, q.add = false;
  mixed ? multiply_mixed(queue, q, reinterpret_cast<BF16*>(scratch + result_bytes), plan.at_once) : multiply(queue, q);
  if (detour) elements_cuda.copy(stream, q.result, p.result, p.add ? Store::kAdd : Store::kAssign);
}

// Sums of nothing, and few rows.
bool by_our_own(Stream& stream, Direction direction, const CMat& rows, const CMat& other, const Mat& result, Store store) {
  const GroupedProduct p = {direction, rows, other, result, nullptr, 1, store == Store::kAdd};
  const bool few = direction == Direction::kForward && rows.rows <= kFewRows;
  if (rows.rows == 0 || result.cols == 0) return true;
  if (few) few_rows_product(queue_of(stream), p);
  if (!few && rows.cols == 0) plain_product(queue_of(stream), p);
  return few || rows.cols == 0;
}

void forward(Stream& stream, CMat x, CMat w, Mat y, Store store) {
  expect_shape("gemm.forward", "x", x, y.rows, w.cols);
  expect_shape("gemm.forward", "w", w, y.cols, x.cols);
  expect_shape("gemm.forward", "y", y, x.rows, w.rows);
  if (!by_our_own(stream, Direction::kForward, x, w, y, store)) run(stream, {x, false, w, true, y, store == Store::kAdd});
}

void backward_input(Stream& stream, CMat dy, CMat w, Mat dx, Store store) {
  expect_shape("gemm.backward_input", "dy", dy, dx.rows, w.rows);
  expect_shape("gemm.backward_input", "w", w, dy.cols, dx.cols);
  expect_shape("gemm.backward_input", "dx", dx, dy.rows, w.cols);
  if (!by_our_own(stream, Direction::kBackwardInput, dy, w, dx, store))
    run(stream, {dy, false, w, false, dx, store == Store::kAdd});
}

void backward_weight(Stream& stream, CMat dy, CMat x, Mat dw) {
  expect_f32("gemm.backward_weight", "dw", dw);
  expect_shape("gemm.backward_weight", "dy", dy, x.rows, dw.rows);
  expect_shape("gemm.backward_weight", "x", x, dy.rows, dw.cols);
  expect_shape("gemm.backward_weight", "dw", dw, dy.cols, x.cols);
  if (dy.rows > 0) run(stream, {dy, true, x, false, dw, true});
}

}  // namespace

void free_blas(void* blas) {
  if (!blas) return;
  auto* const b = static_cast<Blas*>(blas);
  if (b->handle) cublasDestroy(b->handle);
  cudaFree(b->workspace);
  delete b;
}

const GemmKernels gemm_cuda = {forward, backward_input, backward_weight};

}  // namespace moe::cuda
