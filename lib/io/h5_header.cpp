#include "lib/io/h5_header.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace moe {
namespace {

constexpr std::uint64_t kMostBytes = std::uint64_t{1} << 20;  // of one block of a header
constexpr int kMostBlocks = 64;

using Bytes = std::span<const std::byte>;

std::uint64_t number(Bytes b, std::size_t at, std::size_t width) {
  std::uint64_t n = 0;
  if (at + width <= b.size()) std::memcpy(&n, b.data() + at, width);
  return n;
}

struct Block {
  std::uint64_t address, bytes;
};

// What is wrong with the data of one message; continuations are added to `more`.
std::string message_fault(unsigned type, unsigned flags, Bytes data, std::vector<Block>& more) {
  const std::string storage = "expected contiguous storage in this file without filters";
  const auto byte = [&](std::size_t at) { return static_cast<unsigned>(number(data, at, 1)); };
  if ((flags & 2) != 0) return "expected no shared messages in its header";
  if (type == 0x7 || type == 0xB) return storage;  // external files, filters
  if (type == 0x8 && (data.size() < 18 || byte(0) < 3 || byte(0) > 4 || byte(1) != 1)) return storage;  // layout
  if (type == 0x4 && number(data, 0, 4) + 4 > data.size()) return "impossible fill value";
  if (type == 0x5) {
    const bool has_size = byte(0) == 3 ? (byte(1) & 0x20) != 0 : byte(3) != 0;
    const std::size_t at = byte(0) == 3 ? 2 : 4;
    if (byte(0) < 2 || byte(0) > 3 || data.size() < 2) return "impossible fill value";
    if (has_size && (data.size() < at + 4 || number(data, at, 4) > data.size() - at - 4)) return "impossible fill value";
  }
  if (type == 0xC && (data.size() < 9 || byte(0) != 3 || byte(1) != 0)) return "impossible attribute";
  if (type == 0xF) return "expected no table of shared messages";
  if (type == 0x10) {
    if (data.size() < 16) return "impossible continuation of its header";
    more.push_back({number(data, 0, 8), number(data, 8, 8)});
  }
  return "";
}

std::string messages_fault(Bytes b, bool has_order, std::vector<Block>& more) {
  const std::size_t head = has_order ? 6 : 4;
  while (b.size() >= head) {
    const std::size_t size = number(b, 1, 2);
    if (size > b.size() - head) return "a message of its header is longer than the header";
    const auto type = static_cast<unsigned>(number(b, 0, 1)), flags = static_cast<unsigned>(number(b, 3, 1));
    if (std::string fault = message_fault(type, flags, b.subspan(head, size), more); !fault.empty()) return fault;
    b = b.subspan(head + size);
  }
  return "";
}

// The bytes of a block, or none if it does not lie in the file.
std::vector<std::byte> read_block(const File& file, const Block& block) {
  const auto size = static_cast<std::uint64_t>(file.size());
  if (block.bytes > kMostBytes || block.address > size || block.bytes > size - block.address) return {};
  std::vector<std::byte> bytes(block.bytes);
  file.read_at(static_cast<std::int64_t>(block.address), bytes);
  return bytes;
}

}  // namespace

std::string h5_header_fault(const File& file, std::uint64_t address) {
  const auto size = static_cast<std::uint64_t>(file.size());
  const std::vector<std::byte> head =
      read_block(file, {address, address < size ? std::min<std::uint64_t>(34, size - address) : 0});
  if (head.size() < 12 || std::memcmp(head.data(), "OHDR\2", 5) != 0) return "expected an object header of version 2";
  const auto flags = static_cast<unsigned>(number(head, 5, 1));
  const std::size_t width = std::size_t{1} << (flags & 3),
                    at = 6 + ((flags & 0x20) != 0 ? 16 : 0) + ((flags & 0x10) != 0 ? 4 : 0);
  const std::uint64_t length = number(head, at, width);
  if (at + width > head.size() || length > kMostBytes) return "its object header lies outside of the file";
  std::vector<Block> more;
  const bool has_order = (flags & 4) != 0;
  const std::vector<std::byte> first = read_block(file, {address + at + width, length});
  if (first.size() != length) return "its object header lies outside of the file";
  std::string fault = messages_fault(first, has_order, more);
  for (std::size_t i = 0; i < more.size() && fault.empty(); ++i) {
    const std::vector<std::byte> block = read_block(file, more[i]);
    if (block.size() < 8 || std::memcmp(block.data(), "OCHK", 4) != 0 || more.size() > kMostBlocks)
      return "impossible continuation of its header";
    fault = messages_fault(Bytes(block).subspan(4, block.size() - 8), has_order, more);
  }
  return fault;
}

}  // namespace moe
