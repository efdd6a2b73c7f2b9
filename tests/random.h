// Seeded data for tests: the same on every machine. Not here: the product's counter-based generator (lib/base/rng.h),
// so that kernels are tested without it.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace moe {

// Uniform in [low, high).
inline std::vector<float> random_floats(std::size_t n, std::uint64_t seed, float low = -1, float high = 1) {
  std::mt19937_64 bits(seed * 7919 + 17);
  std::vector<float> v(n);
  for (float& x : v) x = low + (high - low) * static_cast<float>(static_cast<double>(bits() >> 11) * 0x1p-53);
  return v;
}

// Uniform in [low, end).
inline std::vector<std::int32_t> random_ints(std::size_t n, std::uint64_t seed, std::int64_t low, std::int64_t end) {
  std::mt19937_64 bits(seed * 104729 + 5);
  std::vector<std::int32_t> v(n);
  for (std::int32_t& x : v)
    x = static_cast<std::int32_t>(low + static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(end - low)));
  return v;
}

}  // namespace moe
