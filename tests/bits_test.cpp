// Sums over bit patterns are those of the plain formula with every instruction set, for all lengths and the largest
// patterns; what is not finite is seen wherever it stands. Not here: the digest of a tensor (checkpoint_test.cpp).
#include "kernels/bits.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace moe {
namespace {

__extension__ typedef unsigned __int128 Wide;

// The formula of man/moe-files.5.
template <class Bits>
Wide formula(std::uint64_t key, std::uint64_t first, const std::vector<Bits>& bits) {
  Wide sum = 0;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    std::uint64_t x = key + (first + i) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    sum += Wide{x ^ (x >> 31)} * (std::uint64_t{bits[i]} + 1);
  }
  return sum;
}

template <class Bits, class Sum>
void expect_formula(Sum sum_of, std::size_t n, bool largest) {
  std::mt19937_64 random(n);
  std::vector<Bits> bits(n);
  for (Bits& b : bits) b = largest ? static_cast<Bits>(-1) : static_cast<Bits>(random());
  const std::uint64_t key = random(), first = random() >> 20;
  const Wide start = (Wide{random()} << 64) | random(), want = start + formula(key, first, bits);
  std::uint64_t sum[2] = {static_cast<std::uint64_t>(start), static_cast<std::uint64_t>(start >> 64)};
  sum_of(key, first, std::span<const Bits>(bits), sum);
  EXPECT_EQ(sum[0], static_cast<std::uint64_t>(want)) << n;
  EXPECT_EQ(sum[1], static_cast<std::uint64_t>(want >> 64)) << n;
}

class BitsTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (cpu_bits_by_isa(GetParam()) == nullptr) GTEST_SKIP() << "not on this processor";
  }
};

TEST_P(BitsTest, SumsAreTheFormula) {
  const BitKernels& k = *cpu_bits_by_isa(GetParam());
  for (const std::size_t n : {0, 1, 7, 8, 31, 1000, 65537, (1 << 20) + 3})
    for (const bool largest : {false, true}) {
      expect_formula<std::uint32_t>(k.element_sum32, n, largest);
      expect_formula<std::uint16_t>(k.element_sum16, n, largest);
    }
}

TEST_P(BitsTest, WhatIsNotFiniteIsSeen) {
  const BitKernels& k = *cpu_bits_by_isa(GetParam());
  std::vector<std::uint32_t> wide(77, 0xff7fffffu);
  std::vector<std::uint16_t> half(77, 0xff7fu);
  EXPECT_TRUE(k.all_finite32(wide) && k.all_finite16(half));
  for (std::size_t i = 0; i < wide.size(); ++i) {
    wide[i] = i % 2 ? 0x7f800000u : 0xffc00001u;
    half[i] = i % 2 ? 0x7f80u : 0xffc1u;
    EXPECT_FALSE(k.all_finite32(wide) || k.all_finite16(half)) << i;
    wide[i] = half[i] = 0;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, BitsTest, ::testing::Values("amx", "avx512", "avx2", "generic"));

}  // namespace
}  // namespace moe
