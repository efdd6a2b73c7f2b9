#include "lib/run/hf_dequantize.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace moe {
namespace {

std::array<float, 256> e4m3_table() {
  std::array<float, 256> table{};
  for (std::size_t code = 0; code < table.size(); ++code) table[code] = e4m3_to_float(static_cast<std::uint8_t>(code));
  return table;
}

}  // namespace

float e4m3_to_float(std::uint8_t code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  float value = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -9)  // subnormal: fraction / 8 * 2^-6
                              : std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
  if (exponent == 15 && fraction == 7) value = std::numeric_limits<float>::quiet_NaN();
  return code & 0x80 ? -value : value;
}

float e2m1_to_float(std::uint8_t code) {
  constexpr std::array<float, 8> kValues = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
  const float value = kValues[code & 7];
  return code & 8 ? -value : value;
}

float e8m0_to_float(std::uint8_t scale) {
  return scale == 255 ? std::numeric_limits<float>::quiet_NaN() : std::ldexp(1.0f, scale - 127);
}

void dequantize_fp8(const Fp8Blocks& s, std::int64_t first, std::span<const std::byte> codes, std::span<const float> scales,
                    float* out) {
  const std::array<float, 256> value = e4m3_table();
  std::int64_t row = first / s.cols, col = first % s.cols;
  const std::int64_t begin = s.scale_row(first);
  for (const std::byte code : codes) {
    const std::int64_t at = (row / s.block_rows - begin) * s.scale_cols() + col / s.block_cols;
    *out++ = value[static_cast<std::size_t>(code)] * scales[static_cast<std::size_t>(at)];
    if (++col == s.cols) col = 0, ++row;
  }
}

void dequantize_mxfp4(std::int64_t first, std::int64_t count, const std::byte* codes, const std::byte* scales, float* out) {
  const std::int64_t last = first + count;
  for (std::int64_t at = first; at < last;) {
    const float scale = e8m0_to_float(static_cast<std::uint8_t>(scales[at / kMxfp4Block - first / kMxfp4Block]));
    const std::int64_t end = std::min(last, (at / kMxfp4Block + 1) * kMxfp4Block);
    for (; at < end; ++at) {
      const auto pair = static_cast<std::uint8_t>(codes[at / 2 - first / 2]);
      *out++ = e2m1_to_float(at % 2 == 0 ? pair : pair >> 4) * scale;
    }
  }
}

}  // namespace moe
