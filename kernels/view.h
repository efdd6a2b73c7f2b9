// Views of memory that somebody else owns: a dtype, a row-major matrix with a row stride, a vector.
// Letters used in every file: T tokens, D model width, H heads, S head width, V vocabulary, L layers, E experts,
// K top-k, N = T*K routed rows, R rows held here, F expert hidden width. A capital suffix lists the dimensions.
// Not here: ownership (lib/tensor/arena.h), files, ranks.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>

namespace moe {

enum class DType : std::uint8_t { kF32, kBF16 };

constexpr std::size_t size_of(DType t) { return t == DType::kF32 ? 4 : 2; }
constexpr const char* name_of(DType t) { return t == DType::kF32 ? "fp32" : "bf16"; }

// bfloat16: the upper half of an IEEE-754 float, rounded to nearest even; NaN stays NaN.
struct BF16 {
  std::uint16_t bits;
};
inline float to_float(BF16 v) {
  const std::uint32_t u = std::uint32_t{v.bits} << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}
inline BF16 to_bf16(float f) {
  std::uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {static_cast<std::uint16_t>((u >> 16) | 0x40u)};
  return {static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

// A row-major matrix of rows x cols elements; element (i, j) lies at data[i * stride + j]. A tensor of rank 3 such as
// expert weights [E, N, K] is the matrix [E*N, K].
struct CMat {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0, cols = 0, stride = 0;

  const float* f32() const { return static_cast<const float*>(data); }
  const BF16* bf16() const { return static_cast<const BF16*>(data); }
  const void* row(std::int64_t i) const {
    return static_cast<const std::byte*>(data) + static_cast<std::size_t>(i * stride) * size_of(dtype);
  }
  // Rows [begin, begin + n), columns [begin, begin + n).
  CMat slice_rows(std::int64_t begin, std::int64_t n) const { return {row(begin), dtype, n, cols, stride}; }
  CMat slice_cols(std::int64_t begin, std::int64_t n) const {
    return {static_cast<const std::byte*>(data) + static_cast<std::size_t>(begin) * size_of(dtype), dtype, rows, n, stride};
  }
};

struct Mat {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0, cols = 0, stride = 0;

  operator CMat() const { return {data, dtype, rows, cols, stride}; }
  float* f32() const { return static_cast<float*>(data); }
  BF16* bf16() const { return static_cast<BF16*>(data); }
  void* row(std::int64_t i) const {
    return static_cast<std::byte*>(data) + static_cast<std::size_t>(i * stride) * size_of(dtype);
  }
  Mat slice_rows(std::int64_t begin, std::int64_t n) const { return {row(begin), dtype, n, cols, stride}; }
  Mat slice_cols(std::int64_t begin, std::int64_t n) const {
    return {static_cast<std::byte*>(data) + static_cast<std::size_t>(begin) * size_of(dtype), dtype, rows, n, stride};
  }
};

inline Mat mat(float* data, std::int64_t rows, std::int64_t cols) { return {data, DType::kF32, rows, cols, cols}; }
inline Mat mat(BF16* data, std::int64_t rows, std::int64_t cols) { return {data, DType::kBF16, rows, cols, cols}; }
inline CMat mat(const float* data, std::int64_t rows, std::int64_t cols) { return {data, DType::kF32, rows, cols, cols}; }
inline CMat mat(const BF16* data, std::int64_t rows, std::int64_t cols) { return {data, DType::kBF16, rows, cols, cols}; }

// What a kernel does with the old content of its output: `=` or `+=`.
enum class Store : std::uint8_t { kAssign, kAdd };

}  // namespace moe
