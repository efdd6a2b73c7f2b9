// Random numbers: Philox against known answers, streams against frozen values, permutations against their definition.
// Not here: who uses which stream.
#include "lib/base/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

namespace moe {
namespace {

using Words = std::array<std::uint32_t, 4>;

// The first three are the known answers of Random123 (kat_vectors); the fourth was computed with its philox.h.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
  EXPECT_EQ(philox4x32({1, 2, 3, 4}, {5, 6}), (Words{0xc0c839bc, 0x889c87c5, 0x61986739, 0x2d4623d0}));
}

// FNV-1a of "" is its offset basis, so this stream can be computed from the paper's function by hand.
TEST(Rng, IsPhiloxOfIndexStreamAndSeed) {
  const Words want = philox4x32({7, 1, 0x84222325, 0xcbf29ce4}, {42, 3});
  const std::uint64_t got = Rng((std::uint64_t{3} << 32) | 42, "").bits((std::uint64_t{1} << 32) | 7);
  EXPECT_EQ(got, (static_cast<std::uint64_t>(want[1]) << 32) | want[0]);
}

// A change of these values changes every initial weight and every data order of every run.
TEST(Rng, FrozenValues) {
  const Rng rng(1337, "blocks.0.attention.q");
  EXPECT_EQ(rng.bits(0), 11331883950104146733u);
  EXPECT_EQ(rng.bits(123456789012), 13625942139036375724u);
  EXPECT_FLOAT_EQ(rng.normal(5), 0.336489975f);
  EXPECT_EQ(permuted_index(rng, 1000, 0), 740u);
}

TEST(Rng, SeedsNamesAndIndicesDiffer) {
  std::set<std::uint64_t> seen;
  for (std::uint64_t seed = 0; seed < 4; ++seed)
    for (const char* name : {"a", "b", "ab", "ba", ""})
      for (std::uint64_t i = 0; i < 100; ++i) seen.insert(Rng(seed, name).bits(i));
  EXPECT_EQ(seen.size(), 2000u);
}

// Bounds are five standard errors of the mean of n draws.
TEST(Rng, MomentsOfUniformAndNormal) {
  const Rng rng(1, "moments");
  const int n = 200000;
  double sum_u = 0, sum = 0, sum2 = 0, sum4 = 0;
  for (int i = 0; i < n; ++i) {
    const double u = rng.uniform(i), z = rng.normal(i);
    ASSERT_TRUE(u >= 0 && u < 1 && std::isfinite(z));
    sum_u += u;
    sum += z;
    sum2 += z * z;
    sum4 += z * z * z * z;
  }
  const double error = 5 / std::sqrt(n);
  EXPECT_NEAR(sum_u / n, 0.5, error * std::sqrt(1.0 / 12));
  EXPECT_NEAR(sum / n, 0, error);
  EXPECT_NEAR(sum2 / n, 1, error * std::sqrt(2.0));
  EXPECT_NEAR(sum4 / n, 3, error * std::sqrt(96.0));
}

TEST(PermutedIndex, IsBijection) {
  for (const std::uint64_t n : {1, 2, 3, 4, 5, 7, 16, 17, 100, 65537}) {
    const Rng rng(9, "permutation of " + std::to_string(n));
    std::vector<int> hits(n);
    for (std::uint64_t i = 0; i < n; ++i) {
      const std::uint64_t place = permuted_index(rng, n, i);
      ASSERT_LT(place, n);
      ++hits[place];
    }
    EXPECT_EQ(hits, std::vector<int>(n, 1)) << "n = " << n;
  }
}

TEST(PermutedIndex, WorksForHugeSizes) {
  const Rng rng(9, "huge");
  for (const std::uint64_t n : {(std::uint64_t{1} << 40) + 1, ~std::uint64_t{0}}) {
    std::set<std::uint64_t> places;
    for (std::uint64_t i = 0; i < 1000; ++i) {
      places.insert(permuted_index(rng, n, i));
      EXPECT_LT(*places.rbegin(), n);
    }
    EXPECT_EQ(places.size(), 1000u);
  }
}

// Over many streams every element comes to every place about equally often: chi-square of each element with n - 1
// degrees of freedom stays below its mean plus six standard deviations.
TEST(PermutedIndex, PlacesAreUniform) {
  const int n = 10, trials = 5000;
  std::vector<int> count(n * n);
  for (int t = 0; t < trials; ++t)
    for (int i = 0; i < n; ++i) ++count[i * n + permuted_index(Rng(t, "epoch"), n, i)];
  const double want = static_cast<double>(trials) / n;
  for (int i = 0; i < n; ++i) {
    double chi2 = 0;
    for (int j = 0; j < n; ++j) chi2 += (count[i * n + j] - want) * (count[i * n + j] - want) / want;
    EXPECT_LT(chi2, n - 1 + 6 * std::sqrt(2.0 * (n - 1))) << "element " << i;
  }
}

// Neighbours before are not neighbours after: a shuffle that kept runs would be no shuffle.
TEST(PermutedIndex, BreaksUpNeighbours) {
  const std::uint64_t n = 65537;
  const Rng rng(3, "neighbours");
  int kept = 0;
  for (std::uint64_t i = 0; i + 1 < n; ++i) kept += permuted_index(rng, n, i) + 1 == permuted_index(rng, n, i + 1);
  EXPECT_LT(kept, 10);  // 1 is expected
}

}  // namespace
}  // namespace moe
