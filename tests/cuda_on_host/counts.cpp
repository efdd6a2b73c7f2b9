#include "tests/cuda_on_host/counts.h"

#include <array>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace cuda_on_host {
namespace {

constexpr auto kNum = static_cast<std::size_t>(Counted::kNum);
constexpr const char* kNames[kNum] = {
    "waits",           "copy_waits",    "launches",        "memsets",     "to_device", "to_host", "on_device",
    "to_device_bytes", "to_host_bytes", "on_device_bytes", "allocations", "frees",     "made"};

struct Counts {
  std::array<std::atomic<std::uint64_t>, kNum> of{};
  const char* from = std::getenv("MOE_CUDA_ON_HOST_COUNTS_FROM");
  std::atomic<bool> runs{from == nullptr};
  ~Counts() {
    const char* const path = std::getenv("MOE_CUDA_ON_HOST_COUNTS");
    std::FILE* const out = path ? std::fopen(path, "w") : nullptr;
    if (!out) return;
    for (std::size_t i = 0; i < kNum; ++i)
      std::fprintf(out, "%s %llu\n", kNames[i], static_cast<unsigned long long>(of[i].load()));
    std::fclose(out);
  }
};
Counts& counts() {
  static Counts all;
  return all;
}

}  // namespace

void count(Counted what, std::uint64_t n) {
  if (counts().runs) counts().of[static_cast<std::size_t>(what)] += n;
}

void enter_range(const char* name) {
  if (counts().from && std::strcmp(counts().from, name) == 0) counts().runs = true;
}

// A small copy from pageable memory lies in the command itself; a larger one goes through pinned memory of the driver, piece
// by piece, and the last piece leaves when the stream has come there.
void count_copy(Side from, Side to, std::size_t bytes) {
  constexpr std::size_t kInCommand = 64 << 10;
  const bool to_device = to == Side::kDevice, from_device = from == Side::kDevice;
  count(!from_device ? Counted::kToDevice : to_device ? Counted::kOnDevice : Counted::kToHost);
  count(!from_device ? Counted::kToDeviceBytes : to_device ? Counted::kOnDeviceBytes : Counted::kToHostBytes, bytes);
  if (to == Side::kPageable || (from == Side::kPageable && bytes > kInCommand)) count(Counted::kCopyWaits);
}

}  // namespace cuda_on_host
