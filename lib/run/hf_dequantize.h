// Elements of quantised weights as fp32. Pure arithmetic on bytes. Not here: files (hf_source.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace moe {

// F8_E4M3 (1 sign, 4 exponent, 3 fraction bits, bias 7): no infinities; 0x7f and 0xff are not-a-number, 448 is the largest.
float e4m3_to_float(std::uint8_t code);
// MXFP4 (Open Compute Project, Microscaling Formats 1.0): E2M1 elements of 4 bits times an E8M0 power of two, 2^(scale -
// 127); scale 255 is not-a-number.
float e2m1_to_float(std::uint8_t code);  // the low 4 bits
float e8m0_to_float(std::uint8_t scale);

// A row-major matrix [rows, cols] cut into blocks of block_rows x block_cols that have a scale each:
// scales[ceil(rows / block_rows), ceil(cols / block_cols)].
struct Fp8Blocks {
  std::int64_t cols = 1, block_rows = 1, block_cols = 1;
  std::int64_t scale_cols() const { return (cols + block_cols - 1) / block_cols; }
  std::int64_t scale_row(std::int64_t element) const { return element / cols / block_rows; }
};
// out[i] = value of code i times its scale, for elements [first, first + codes.size()) of the matrix; `scales` begin with
// the row of the first element.
void dequantize_fp8(const Fp8Blocks& shape, std::int64_t first, std::span<const std::byte> codes,
                    std::span<const float> scales, float* out);

inline constexpr std::int64_t kMxfp4Block = 32;  // elements that share a scale
// out[i] = elements [first, first + count) of a tensor; `codes` hold two elements a byte, the low half first, and begin with
// the byte of the first element, `scales` with its scale.
void dequantize_mxfp4(std::int64_t first, std::int64_t count, const std::byte* codes, const std::byte* scales, float* out);

}  // namespace moe
