// Tensor maps (cuda_hopper.h).
#include "kernels/cuda_driver.h"
#include "kernels/cuda_hopper.h"

namespace moe::cuda {

TensorMap tensor_map(const CMat& m, i64 groups, unsigned box_rows) {
  static const auto encode = driver_function<decltype(&cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  const auto rows = static_cast<cuuint64_t>(m.rows / groups);
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(m.cols), rows, static_cast<cuuint64_t>(groups)};
  const auto element = static_cast<cuuint32_t>(size_of(m.dtype));
  const cuuint64_t row_bytes = static_cast<cuuint64_t>(m.stride) * element, strides[] = {row_bytes, row_bytes * rows};
  const cuuint32_t box[] = {kBoxRowBytes / element, box_rows, 1}, steps[] = {1, 1, 1};
  const auto dtype = m.dtype == DType::kF32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  TensorMap map;
  const CUresult result =
      encode(&map, dtype, 3, const_cast<void*>(m.data), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
             CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS)
    throw std::runtime_error("CUDA: no tensor map of " + std::to_string(m.rows) + " x " + std::to_string(m.cols) +
                             " elements with row stride " + std::to_string(m.stride) + ": error " + std::to_string(result));
  return map;
}

}  // namespace moe::cuda
