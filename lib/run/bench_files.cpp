#include "lib/run/bench_files.h"

#include <algorithm>
#include <span>

#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/io/box.h"
#include "lib/io/files.h"

namespace moe {
namespace {

constexpr std::int64_t kPieceBytes = std::int64_t{1} << 20;

// xorshift: fast and never zero, so that nothing on the way can be compressed or shared.
void fill_random(std::span<std::uint32_t> words, std::uint64_t seed) {
  std::uint64_t x = Rng(seed, "bench files").bits(0) | 1;
  for (std::uint32_t& w : words) {
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    w = static_cast<std::uint32_t>(x) & 0xff7fffffu;  // one bit of the exponent is zero: finite
  }
}

}  // namespace

ScratchDirectory::ScratchDirectory(const std::string& parent) : path_(parent + "/.moe-bench-" + unique_suffix()) {
  make_directories(path_);
}
ScratchDirectory::~ScratchDirectory() { remove_tree(path_); }

double raw_write_seconds(const std::string& directory, std::int64_t bytes) {
  std::vector<std::uint32_t> piece(kPieceBytes / 4);
  fill_random(piece, 1);
  const std::string path = directory + "/raw";
  const Stopwatch clock;
  File file = File::create(path);
  for (std::int64_t at = 0; at < bytes; at += kPieceBytes)
    file.write_at(at, std::as_bytes(std::span(piece)).first(static_cast<std::size_t>(std::min(kPieceBytes, bytes - at))));
  file.sync();
  file.close();
  const double seconds = clock.seconds();
  remove_file(path);
  return seconds;
}

double raw_copy_seconds(const std::vector<std::string>& files, const std::string& directory) {
  std::vector<std::byte> piece(kPieceBytes);
  std::vector<std::string> copies;
  const Stopwatch clock;
  for (const std::string& name : files) {
    const File from = File::open(name);
    copies.push_back(directory + "/copy-" + base_name(name));
    File to = File::create(copies.back());
    const std::int64_t size = from.size();
    for (std::int64_t at = 0; at < size; at += kPieceBytes) {
      const auto part = std::span(piece).first(static_cast<std::size_t>(std::min(kPieceBytes, size - at)));
      from.read_at(at, part);
      to.write_at(at, part);
    }
    to.sync();
    to.close();
  }
  const double seconds = clock.seconds();
  for (const std::string& copy : copies) remove_file(copy);
  return seconds;
}

SyntheticState::SyntheticState(std::int64_t bytes) {
  constexpr std::int64_t kExperts = 8, kLayers = 4, kWidth = 1024;
  // Per layer and role: experts [8, rows, 1024] take three quarters, the dense tensor the rest.
  const std::int64_t share = std::max<std::int64_t>(bytes / (kLayers * 3) / 4, kExperts * kWidth * 4);
  const std::int64_t expert_rows = std::max<std::int64_t>(share * 3 / 4 / (kExperts * kWidth), 1);
  const std::int64_t dense_rows = std::max<std::int64_t>(share / 4 / kWidth, 1);
  const auto add = [&](const std::string& name, const char* role, const std::vector<std::int64_t>& shape) {
    data_.emplace_back(static_cast<std::size_t>(elements_of(shape)));
    fill_random(data_.back(), data_.size());
    slices_.push_back(
        {name, role, DType::kF32, shape, std::vector<std::int64_t>(shape.size(), 0), shape, data_.back().data()});
    bytes_ += 4 * elements_of(shape);
  };
  for (std::int64_t layer = 0; layer < kLayers; ++layer)
    for (const char* role : {"weight", "m", "v"}) {
      const std::string prefix = "layers." + std::to_string(layer);
      add(prefix + ".experts.down.weight", role, {kExperts, expert_rows, kWidth});
      add(prefix + ".attn.qkv.weight", role, {dense_rows, kWidth});
    }
}

}  // namespace moe
