#include "lib/tensor/arena.h"

#include <new>

namespace moe {

Arena::Arena(std::size_t capacity_bytes, const Device& device) : device_(device), capacity_(capacity_bytes) {
  if (capacity_bytes == 0) return;
  base_ = static_cast<std::byte*>(device.allocate(capacity_bytes));
  if (!base_) throw std::bad_alloc();
}

Arena::~Arena() {
  if (base_) device_.release(base_, capacity_);
}

void* Arena::take(std::size_t bytes) {
  const std::size_t begin = used_;
  used_ += (bytes + 63) / 64 * 64;
  if (measuring()) return nullptr;
  if (used_ > capacity_) throw std::bad_alloc();
  return base_ + begin;
}

Mat Arena::matrix(DType dtype, std::int64_t rows, std::int64_t cols) {
  return {take(static_cast<std::size_t>(rows * cols) * size_of(dtype)), dtype, rows, cols, cols};
}

Mat Arena::padded_matrix(DType dtype, std::int64_t rows, std::int64_t cols) {
  const auto line = static_cast<std::int64_t>(64 / size_of(dtype));
  const std::int64_t stride = cols % (16 * line) == 0 ? cols + line : cols;
  Mat m = matrix(dtype, rows, stride);
  m.cols = cols;
  return m;
}

}  // namespace moe
