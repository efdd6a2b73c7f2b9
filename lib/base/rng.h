// Counter-based random numbers (Philox4x32-10, Salmon et al. 2011): a value is a pure function of (seed, name, index),
// so initial weights and data order do not depend on threads, ranks or layout.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace moe {

// Ten rounds of Philox4x32 with the constants of the paper; agrees with Random123's known answers.
std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter, std::array<std::uint32_t, 2> key);

class Rng {
 public:
  // Streams of different seeds or names are independent.
  Rng(std::uint64_t seed, std::string_view name);
  std::uint64_t bits(std::uint64_t index) const;  // 64 random bits of element `index`
  double uniform(std::uint64_t index) const;      // in [0, 1), 53 bits
  float normal(std::uint64_t index) const;        // mean 0, variance 1 (Box-Muller in double)

 private:
  std::array<std::uint32_t, 2> key_;
  std::uint64_t stream_;
};

// A permutation of [0, n) in O(1) memory: place of element i (Feistel network over the smallest even number of bits,
// walked until the image is below n). Pure function of (rng stream, n, i).
std::uint64_t permuted_index(const Rng& rng, std::uint64_t n, std::uint64_t i);

}  // namespace moe
