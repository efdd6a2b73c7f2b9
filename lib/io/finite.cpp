#include "lib/io/finite.h"

#include <algorithm>

#include "kernels/bits.h"

namespace moe {
namespace {

// An exponent of ones alone is an infinity or not-a-number.
template <class Bits>
bool is_bad(Bits bits, Bits exponent) {
  return (bits & exponent) == exponent;
}

bool all_finite(std::span<const std::uint32_t> block) { return cpu_bits().all_finite32(block); }
bool all_finite(std::span<const std::uint16_t> block) { return cpu_bits().all_finite16(block); }

// Blocks are judged as a whole; only one that is bad is searched.
template <class Bits>
std::int64_t search(std::span<const Bits> bits, Bits exponent) {
  constexpr std::size_t kBlock = 65536;
  for (std::size_t begin = 0; begin < bits.size(); begin += kBlock) {
    const auto block = bits.subspan(begin, std::min(kBlock, bits.size() - begin));
    if (all_finite(block)) continue;
    const auto at = std::find_if(block.begin(), block.end(), [&](Bits b) { return is_bad(b, exponent); });
    return static_cast<std::int64_t>(begin) + (at - block.begin());
  }
  return -1;
}

}  // namespace

std::int64_t first_not_finite(std::span<const std::uint32_t> fp32) { return search(fp32, std::uint32_t{0x7f800000}); }
std::int64_t first_not_finite(std::span<const std::uint16_t> bf16) { return search(bf16, std::uint16_t{0x7f80}); }

}  // namespace moe
