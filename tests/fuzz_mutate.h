// Damage to bytes, a pure function of a number: flipped bits, runs, cuts, insertions, splices, numbers, lengths. And the
// mending of checksums, so that damage passes the first gate. Not here: who reads it (fuzz_readers_test.cpp).
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "lib/io/digest.h"

// Of libhdf5: Jenkins' lookup3, with which it guards its metadata.
extern "C" std::uint32_t H5_checksum_metadata(const void* data, std::size_t length, std::uint32_t initial);

namespace moe {

class Dice {
 public:
  explicit Dice(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 1) {}
  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  std::size_t below(std::size_t n) { return n == 0 ? 0 : next() % n; }

 private:
  std::uint64_t state_;
};

// A number that programs stumble over, in `bytes` little-endian bytes or as decimal digits.
inline std::uint64_t awkward(Dice& dice) {
  constexpr std::uint64_t kNumbers[] = {0,
                                        1,
                                        2,
                                        7,
                                        8,
                                        255,
                                        256,
                                        65535,
                                        1u << 20,
                                        0x7fffffff,
                                        0x80000000u,
                                        0xffffffffu,
                                        std::uint64_t{1} << 48,
                                        INT64_MAX,
                                        std::uint64_t{1} << 63,
                                        UINT64_MAX};
  return kNumbers[dice.below(std::size(kNumbers))] + dice.below(3) - 1;
}

inline void edit_number(std::string& s, Dice& dice) {  // in JSON
  const std::size_t from = dice.below(s.size());
  const std::size_t at = s.find_first_of("0123456789", from);
  if (at == std::string::npos) return;
  const std::size_t end = std::min(s.find_first_not_of("0123456789", at), s.size());
  constexpr const char* kWords[] = {"-1", "1e3", "1e400", "null", "true", "[]", "{}", "\"x\"", "0.5", ""};
  s.replace(at, end - at, dice.below(2) == 0 ? std::to_string(awkward(dice)) : kWords[dice.below(std::size(kWords))]);
}

inline void mutate_once(std::string& s, Dice& dice, const std::string& other) {
  if (s.empty()) return;
  const std::size_t at = dice.below(s.size()),
                    length = std::min(s.size() - at, 1 + dice.below(std::size_t{1} << dice.below(10)));
  switch (dice.below(9)) {
    case 0:
      s[at] = static_cast<char>(s[at] ^ (1 << dice.below(8)));
      return;
    case 1:
      s[at] = static_cast<char>(dice.next());
      return;
    case 2:
      std::fill_n(s.begin() + static_cast<std::ptrdiff_t>(at), length,
                  static_cast<char>(dice.below(3) == 0 ? dice.next() : 0));
      return;
    case 3:
      s.resize(at);
      return;
    case 4:
      s.erase(at, length);
      return;
    case 5:
      s.insert(at, s.substr(dice.below(s.size()), length));
      return;
    case 6:
      if (!other.empty()) s.replace(at, length, other.substr(dice.below(other.size()), length));
      return;
    case 7:
      edit_number(s, dice);
      return;
    default: {  // a length or an address
      const std::uint64_t n = awkward(dice);
      const std::size_t bytes = std::min<std::size_t>(s.size() - at, std::size_t{1} << dice.below(4));
      std::memcpy(s.data() + at, &n, bytes);
    }
  }
}

inline std::string mutated(std::string s, Dice& dice, const std::string& other) {
  for (std::size_t n = 1 + (dice.below(3) == 0 ? dice.below(6) : 0); n > 0; --n) mutate_once(s, dice, other);
  return s;
}

// Mutation of a place that HDF5 keeps structures in: a superblock or an object header.
inline std::string mutated_metadata(std::string s, Dice& dice) {
  std::size_t begin = 8, bytes = 36;
  if (dice.below(8) != 0) {
    const std::size_t header = s.find("OHDR", dice.below(s.size()));
    if (header != std::string::npos)
      begin = header + 4, bytes = std::min<std::size_t>(s.size() - begin, 4 + dice.below(400));
  }
  std::string part = s.substr(begin, bytes);
  const std::size_t whole = part.size();
  for (std::size_t n = 1 + dice.below(3); n > 0; --n) mutate_once(part, dice, s);
  part.resize(whole, '\0');
  return s.replace(begin, whole, part);
}

// Checksums of the superblock and of all object headers made right; the end of the file too, in half of the cases.
inline std::string mended_h5(std::string s, Dice& dice) {
  const auto put = [&](std::size_t begin, std::size_t length) {
    if (begin + length + 4 > s.size()) return;
    const std::uint32_t sum = H5_checksum_metadata(s.data() + begin, length, 0);
    std::memcpy(s.data() + begin + length, &sum, 4);
  };
  if (s.size() < 48) return s;
  const std::uint64_t end = s.size();
  if (dice.below(2) == 0) std::memcpy(s.data() + 28, &end, 8);
  put(0, 44);
  for (std::size_t at = s.find("OHDR"); at != std::string::npos && at + 24 < s.size(); at = s.find("OHDR", at + 4)) {
    const auto flags = static_cast<unsigned char>(s[at + 5]);
    const std::size_t head = 6 + ((flags & 0x20) != 0 ? 16 : 0) + ((flags & 0x10) != 0 ? 4 : 0),
                      width = std::size_t{1} << (flags & 3);
    std::uint64_t size = 0;
    if (at + head + width > s.size()) continue;
    std::memcpy(&size, s.data() + at + head, width);
    if (size < s.size()) put(at, head + width + size);
  }
  return s;
}

// The digest in the first line of a manifest made right.
inline std::string mended_manifest(std::string s) {
  const std::size_t at = std::strlen("{\n \"manifest_digest\": \"");
  if (s.size() < at + 32) return s;
  s.replace(at, 32, 32, '0');
  return s.replace(at, 32, xxh3(s).hex());
}

}  // namespace moe
