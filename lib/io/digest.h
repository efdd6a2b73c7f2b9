// Digests: XXH3-128 of bytes, and a digest of a tensor that does not depend on how the tensor is cut into boxes.
// Not cryptographic: they find accidents, not forgeries.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace moe {

struct Digest {
  std::uint64_t high = 0, low = 0;
  bool operator==(const Digest&) const = default;
  std::string hex() const;  // 32 lower-case digits, most significant first: what xxh128sum prints
};

Digest xxh3(std::span<const std::byte> bytes);
Digest xxh3(std::string_view text);

// XXH3-128 of bytes that come in pieces.
class Xxh3 {
 public:
  Xxh3();
  Xxh3(Xxh3&&) noexcept;
  ~Xxh3();
  void update(std::span<const std::byte> bytes);
  Digest digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// sum over elements of f(i) * (bits + 1), modulo 2^128, where i is the global row-major index of the element, bits its bit
// pattern (32 or 16 bits) as an unsigned number, and f(i) = splitmix64(key + i * golden ratio) with
// key = low half of XXH3-128(identity). Sums of disjoint boxes add up to the sum of their union, whatever the cut.
// Two tensors that differ anywhere collide with probability about 2^-64 (exact multilinear hashing).
class ElementSum {
 public:
  explicit ElementSum(std::string_view identity);  // name, role, dtype and shape as one text
  // += `count` elements in memory order with global indices first, first + 1, ...
  void add(std::uint64_t first, std::span<const std::uint32_t> bits);
  void add(std::uint64_t first, std::span<const std::uint16_t> bits);
  void add(const Digest& partial);  // the sum of another box of the same tensor
  Digest value() const { return sum_; }

 private:
  std::uint64_t key_;
  Digest sum_;
};

}  // namespace moe
