// Memory that is taken once and kept: one mapping with large pages, handed out in order, never given back while a run
// lasts (fresh pages are slow). Pages that nobody touches cost nothing on the CPU, so rooms may be as large as the worst
// case. A measuring arena hands out nothing and only counts, so that the code that allocates a model is also the code that
// predicts its memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/device.h"
#include "kernels/view.h"

namespace moe {

class Arena {
 public:
  // kOnDemand: memory of a GPU is where commit() was told and nowhere else, and not zero; the CPU's is where it is touched.
  // kHost: memory of the host that the device copies from and to (Device::allocate_host).
  enum class Backing : std::uint8_t { kAtOnce, kOnDemand, kHost };
  // capacity_bytes 0: measuring. Memory of the device; where there is not so much of it std::bad_alloc, or of a GPU Error.
  explicit Arena(std::size_t capacity_bytes, const Device& device = cpu_device(), Backing backing = Backing::kAtOnce);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  bool measuring() const { return base_ == nullptr; }
  const Device& device() const { return device_; }
  std::size_t used_bytes() const { return used_; }

  // Zero-filled, 64-byte aligned; nullptr while measuring. Throws std::bad_alloc when the capacity is spent.
  void* take(std::size_t bytes);
  Mat matrix(DType dtype, std::int64_t rows, std::int64_t cols);
  // Rows a cache line further apart where their length would send them all to the same few sets of a cache.
  Mat padded_matrix(DType dtype, std::int64_t rows, std::int64_t cols);
  template <class T>
  std::span<T> vector(std::int64_t n) {
    void* p = take(sizeof(T) * static_cast<std::size_t>(n));
    return measuring() ? std::span<T>() : std::span<T>(static_cast<T*>(p), static_cast<std::size_t>(n));
  }

 private:
  const Device& device_;
  Backing backing_;
  std::byte* base_ = nullptr;
  std::size_t capacity_ = 0, used_ = 0;
};

// Memory behind what an arena on demand handed out, if it is not there yet. Of a GPU that has not so much: Error.
void commit(const Device& device, void* data, std::size_t bytes);
// ... behind the first rows of a matrix of it, which may be none at all.
void commit_rows(const Device& device, const Mat& m, std::int64_t rows);

}  // namespace moe
