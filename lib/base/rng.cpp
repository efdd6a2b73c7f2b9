// Philox4x32-10 from the paper: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011. Not here: who draws what (each user names its stream and its index).
#include "lib/base/rng.h"

#include <bit>
#include <cmath>
#include <numbers>

namespace moe {
namespace {

constexpr std::uint32_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;  // golden ratio, sqrt(3) - 1

std::uint32_t low(std::uint64_t x) { return static_cast<std::uint32_t>(x); }
std::uint32_t high(std::uint64_t x) { return static_cast<std::uint32_t>(x >> 32); }
std::uint64_t joined(std::uint32_t lo, std::uint32_t hi) { return static_cast<std::uint64_t>(hi) << 32 | lo; }

// FNV-1a, 64 bits: names are few and fixed, the generator does the mixing.
std::uint64_t hash_of(std::string_view name) {
  std::uint64_t hash = 0xCBF29CE484222325;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash;
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> c, std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = static_cast<std::uint64_t>(kMultiplier0) * c[0];
    const std::uint64_t p1 = static_cast<std::uint64_t>(kMultiplier1) * c[2];
    c = {high(p1) ^ c[1] ^ key[0], low(p1), high(p0) ^ c[3] ^ key[1], low(p0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return c;
}

// The seed is the key; the counter is (index, hash of the name).
Rng::Rng(std::uint64_t seed, std::string_view name) : key_{low(seed), high(seed)}, stream_(hash_of(name)) {}

std::uint64_t Rng::bits(std::uint64_t index) const {
  const auto word = philox4x32({low(index), high(index), low(stream_), high(stream_)}, key_);
  return joined(word[0], word[1]);
}

double Rng::uniform(std::uint64_t index) const { return static_cast<double>(bits(index) >> 11) * 0x1p-53; }

float Rng::normal(std::uint64_t index) const {
  const auto word = philox4x32({low(index), high(index), low(stream_), high(stream_)}, key_);
  const double u =
      static_cast<double>((joined(word[0], word[1]) >> 11) + 1) * 0x1p-53;  // in (0, 1]: its logarithm is finite
  const double v = static_cast<double>(joined(word[2], word[3]) >> 11) * 0x1p-53;
  return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(2 * std::numbers::pi * v));
}

std::uint64_t permuted_index(const Rng& rng, std::uint64_t n, std::uint64_t i) {
  if (n < 2) return 0;
  const int half = (std::bit_width(n - 1) + 1) / 2;  // the network permutes [0, 4^half), less than 4 n
  const std::uint64_t mask = (std::uint64_t{1} << half) - 1;
  const auto scramble = [&](std::uint64_t x) {
    std::uint64_t left = x >> half, right = x & mask;
    for (std::uint64_t round = 0; round < 8; ++round) {
      const std::uint64_t mixed = left ^ (rng.bits(round << 32 | right) & mask);
      left = right;
      right = mixed;
    }
    return left << half | right;
  };
  do i = scramble(i);  // a permutation leads back below n, because it began there
  while (i >= n);
  return i;
}

}  // namespace moe
