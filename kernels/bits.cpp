// Sums and judgements of bit patterns (bits.h). Where there are vectors of 64-bit products (AVX-512DQ), a plain loop over
// four sums that cannot overflow, for the compiler to make vectors of; elsewhere one wide product an element is faster. Not
// here: names, carries between calls.
#include "kernels/bits.h"

#include <algorithm>

namespace moe::MOE_ISA {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u, kLow = 0xffffffffu;

// Steele, Lea, Flood 2014: the output function of splitmix64.
inline std::uint64_t splitmix64(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

__extension__ typedef unsigned __int128 Wide;

#ifdef __AVX512DQ__
// f (b + 1) = low(f) (b + 1) + 2^32 high(f) (b + 1): both factors are below 2^64, as (2^32 - 1) b + 2^32 - 1 is. Their
// halves are summed apart, so that 2^32 terms fit.
template <class Bits>
Wide sum_of_block(std::uint64_t x, const Bits* bits, std::size_t n) {
  std::uint64_t low_low = 0, low_high = 0, high_low = 0, high_high = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t f = splitmix64(x + i * kGolden), b = bits[i];
    const std::uint64_t low = (f & kLow) * b + (f & kLow), high = (f >> 32) * b + (f >> 32);
    low_low += low & kLow;
    low_high += low >> 32;
    high_low += high & kLow;
    high_high += high >> 32;
  }
  return low_low + ((Wide{low_high} + high_low) << 32) + (Wide{high_high} << 64);
}
#else
template <class Bits>
Wide sum_of_block(std::uint64_t x, const Bits* bits, std::size_t n) {
  Wide sum = 0;
  for (std::size_t i = 0; i < n; ++i, x += kGolden) sum += Wide{splitmix64(x)} * (std::uint64_t{bits[i]} + 1);
  return sum;
}
#endif

template <class Bits>
void element_sum(std::uint64_t key, std::uint64_t first, std::span<const Bits> bits, std::uint64_t* sum) {
  constexpr std::size_t kBlock = std::size_t{1} << 20;
  Wide total = (Wide{sum[1]} << 64) | sum[0];
  for (std::size_t at = 0; at < bits.size(); at += kBlock)
    total += sum_of_block(key + (first + at) * kGolden, bits.data() + at, std::min(kBlock, bits.size() - at));
  sum[0] = static_cast<std::uint64_t>(total);
  sum[1] = static_cast<std::uint64_t>(total >> 64);
}

// An exponent of ones alone is an infinity or not-a-number.
template <class Bits>
bool all_finite(std::span<const Bits> bits, Bits exponent) {
  Bits any = 0;
  for (const Bits b : bits) any |= static_cast<Bits>((b & exponent) == exponent);
  return any == 0;
}

bool all_finite32(std::span<const std::uint32_t> bits) { return all_finite(bits, std::uint32_t{0x7f800000}); }
bool all_finite16(std::span<const std::uint16_t> bits) { return all_finite(bits, std::uint16_t{0x7f80}); }

}  // namespace

extern const BitKernels bits_cpu;
const BitKernels bits_cpu = {element_sum<std::uint32_t>, element_sum<std::uint16_t>, all_finite32, all_finite16};

}  // namespace moe::MOE_ISA
