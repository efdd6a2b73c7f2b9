#include "lib/tensor/arena.h"

#include <new>
#include <string>

#include "lib/base/byte_size.h"
#include "lib/base/error.h"

namespace moe {
namespace {

[[noreturn]] void refuse(std::size_t bytes, const Device& device) {
  if (device.kind == DeviceKind::kCpu) throw std::bad_alloc();
  std::size_t used = 0, total = 0;
  device.memory(&used, &total);
  throw Error(Exit::kInternal,
              std::string("memory of the GPU (") + device.name + "): expected " + bytes_text(static_cast<double>(bytes)) +
                  " free, found " + bytes_text(static_cast<double>(total - used)) + " of " +
                  bytes_text(static_cast<double>(total)),
              "a smaller micro-batch, shorter sequences, --recompute or more ranks need less");
}

[[noreturn]] void refuse_host(std::size_t bytes, const Device& device) {
  if (device.kind == DeviceKind::kCpu) throw std::bad_alloc();
  throw Error(Exit::kInternal,
              std::string("memory of the host that the GPU (") + device.name + ") copies from and to: expected " +
                  bytes_text(static_cast<double>(bytes)) + ", found less",
              "ask for more memory of the node (sbatch --mem), or for more ranks to share it out (--shard)");
}

}  // namespace

Arena::Arena(std::size_t capacity_bytes, const Device& device, Backing backing)
    : device_(device), backing_(backing), capacity_(capacity_bytes) {
  if (capacity_bytes == 0) return;
  const auto take = backing == Backing::kHost     ? device.allocate_host
                    : backing == Backing::kAtOnce ? device.allocate
                                                  : device.reserve;
  base_ = static_cast<std::byte*>(take(capacity_bytes));
  if (!base_) backing == Backing::kHost ? refuse_host(capacity_bytes, device) : refuse(capacity_bytes, device);
}

Arena::~Arena() {
  if (base_) (backing_ == Backing::kHost ? device_.release_host : device_.release)(base_, capacity_);
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

void commit(const Device& device, void* data, std::size_t bytes) {
  if (bytes > 0 && !device.commit(data, bytes)) refuse(bytes, device);
}

void commit_rows(const Device& device, const Mat& m, std::int64_t rows) {
  if (m.data) commit(device, m.data, static_cast<std::size_t>(rows * m.stride) * size_of(m.dtype));
}

}  // namespace moe
