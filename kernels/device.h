// Where kernels run. A Stream is passed to every kernel: the device, how many threads a CPU kernel may use, and its
// scratch memory. Results never depend on the number of threads: every sum has a fixed order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace moe {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

class Stream {
 public:
  // num_threads < 1 takes the number of processors that this process may use.
  explicit Stream(int num_threads = 0);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  DeviceKind device() const { return DeviceKind::kCpu; }
  int num_threads() const { return num_threads_; }
  // 64-byte aligned scratch of one thread (index 0 .. num_threads-1), valid inside one kernel call. The memory is
  // kScratchBytes long and is only touched when used.
  std::byte* scratch(int thread) const { return scratch_ + static_cast<std::size_t>(thread) * kScratchBytes; }
  static constexpr std::size_t kScratchBytes = std::size_t{16} << 20;

 private:
  int num_threads_;
  std::byte* scratch_;
};

// Processors that this process may use (sched_getaffinity).
int num_usable_processors();

}  // namespace moe
