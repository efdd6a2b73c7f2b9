// What moe-bench gives to kernels: random operands in memory of their device, in several equal sets, and for a check their
// image on the host, in floats. Not here: which operands (bench_gemm.cpp, ...), the clock (bench_measure.h).
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "lib/base/rng.h"
#include "lib/model/block.h"

namespace moe {

// Operands, filled with random values (never zeros: processors clock and predict differently on them), outputs too: their
// pages must have been touched. Made with capacity 0 it only counts, as Arena does.
class Operands {
 public:
  // Memory of the stream's device; `dtype`: of matrix().
  Operands(std::size_t capacity_bytes, Stream& stream, DType dtype)
      : stream_(stream), dtype_(dtype), arena_(capacity_bytes, stream.device()), rng_(1, "bench operands") {}

  std::span<float> floats(std::int64_t n, float low = -1, float high = 1);
  Mat matrix_f32(std::int64_t rows, std::int64_t cols) { return mat(floats(rows * cols).data(), rows, cols); }
  Mat matrix(std::int64_t rows, std::int64_t cols);
  std::span<float> sines(std::span<const float> cosines, std::int64_t n);  // of the same angles
  std::span<std::int32_t> ints(std::int64_t n, std::int64_t end);          // in [0, end)
  std::span<std::int64_t> copy_of(std::span<const std::int64_t> values);

  std::size_t used_bytes() const { return arena_.used_bytes(); }
  bool is_host_fp32() const { return stream_.is_cpu() && dtype_ == DType::kF32; }
  Stream& stream() const { return stream_; }

 private:
  friend class OperandImage;
  struct Piece {  // what was taken
    void* data;
    std::size_t n, element_bytes;
    bool is_bf16;
  };
  template <class T>
  std::span<T> take(std::int64_t n);
  template <class T>
  void fill(std::span<T> to, float low, float high);

  Stream& stream_;
  DType dtype_;
  Arena arena_;
  Rng rng_;
  std::uint64_t next_ = 0;
  bool fills_ = true;  // false: an image
  std::vector<Piece> pieces_;
};

// The same operands on the host, bf16 widened to float: the pieces that `of` took first.
class OperandImage {
 public:
  explicit OperandImage(const Operands& of, std::size_t bytes);
  Operands& memory() { return memory_; }
  void pull();  // from the device ...
  void push();  // ... and back, rounded

 private:
  const Operands& of_;
  Stream host_;
  Operands memory_;
};

inline constexpr int kMaxSets = 32;
std::size_t cycle_bytes(const Stream& stream);  // of all sets together: more than its caches hold

// Equal sets of operands and the memory they lie in.
template <class Set>
class Sets {
 public:
  // take(Operands&) -> Set. `warm`: one set, which stays in the caches if it fits.
  template <class Take>
  Sets(Stream& stream, DType dtype, bool warm, Take take) : take_(take) {
    Operands counting(0, stream, dtype);
    take(counting);
    const std::size_t bytes = counting.used_bytes();
    const std::size_t n = warm ? 1 : std::min<std::size_t>(std::max<std::size_t>(cycle_bytes(stream) / bytes, 1), kMaxSets);
    memory_ = std::make_unique<Operands>(n * bytes, stream, dtype);
    for (std::size_t i = 0; i < n; ++i) sets_.push_back(take(*memory_));
  }

  int size() const { return static_cast<int>(sets_.size()); }
  const Set& of(int call) const { return sets_[static_cast<std::size_t>(call) % sets_.size()]; }
  auto begin() const { return sets_.begin(); }
  auto end() const { return sets_.end(); }

  // For a check. The set that it runs, ...
  const Set& front() const { return sets_.front(); }
  // ... the same as it is now, where the host can read it, ...
  const Set& pulled() {
    if (memory_->is_host_fp32()) return front();
    if (!image_) make_image();
    image_->pull();
    return image_set_;
  }
  // ... and a change of it by the host.
  template <class Change>
  void change(Change change_set) {
    change_set(pulled());
    if (image_) image_->push();
  }

 private:
  void make_image() {
    Stream host(1);
    Operands counting(0, host, DType::kF32);
    take_(counting);
    image_ = std::make_unique<OperandImage>(*memory_, counting.used_bytes());
    image_set_ = take_(image_->memory());
  }

  std::function<Set(Operands&)> take_;
  std::unique_ptr<Operands> memory_;
  std::vector<Set> sets_;
  std::unique_ptr<OperandImage> image_;
  Set image_set_{};
};

// take(Operands&) -> Set
template <class Take>
auto take_sets(Stream& stream, DType dtype, bool warm, Take take) {
  return std::make_shared<Sets<std::invoke_result_t<Take, Operands&>>>(stream, dtype, warm, take);
}

}  // namespace moe
