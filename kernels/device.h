// Where kernels run. A Device is memory and queues: plain calls on the CPU, a plugin's on a GPU (device_cuda.h). A Stream is
// one queue of a device and is passed to every kernel; what is put into it happens in that order, at once on the CPU, some
// time later on a GPU: what the host reads was copied to it and waited for (synchronize). Results never depend on the
// number of threads: every sum has a fixed order. Not here: which device a tool takes (lib/base/common_options.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace moe {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

// When a queue came to a place, its own way: a reading of the host's clock on the CPU, where it is there at once, an event
// that gets its time from the device on a GPU.
struct TimeMark {
  std::int64_t ns = 0;  // of host_clock_ns()
  void* event = nullptr;
};

std::int64_t host_clock_ns();  // steady; its zero is the host's own affair

// Functions of a device. A queue is what stands behind a Stream; nullptr on the CPU.
struct Device {
  DeviceKind kind;
  const char* name;  // "cpu", or what the driver calls it
  // Zero-filled memory for kernels, 256-byte aligned on a GPU, 64 on the CPU; nullptr if there is not so much.
  void* (*allocate)(std::size_t bytes);
  // Addresses alone, for what may grow: kernels may touch [p, p + bytes) of them after commit(). What is there at first is
  // undefined. nullptr if there are not so many. On the CPU memory that nobody touches costs nothing: these are allocate(),
  // and a commit() that has nothing to do.
  void* (*reserve)(std::size_t bytes);
  bool (*commit)(void* p, std::size_t bytes);        // by any thread; false if there is not so much memory
  void (*release)(void* memory, std::size_t bytes);  // of allocate() or reserve()
  // Zero-filled memory of the host that copies from and to the device run from and to without a detour, and that kernels may
  // touch too, as fast as the bus is.
  void* (*allocate_host)(std::size_t bytes);
  void (*release_host)(void* memory, std::size_t bytes);
  void* (*make_queue)();
  void (*free_queue)(void* queue);
  // In the order of the queue. Memory of the host on either side, of allocate_host() or not: it must stay as it is until
  // the queue is there, but for a source of other host memory, which was read when copy() returns.
  void (*copy)(void* queue, void* to, const void* from, std::size_t bytes);
  void (*zero)(void* queue, void* memory, std::size_t bytes);
  void (*synchronize)(void* queue);  // returns when everything in the queue is done
  // A mark behind what is in the queue now; what comes into a queue after wait_mark() waits for it, the host does not. Each
  // mark is waited for once. nullptr on the CPU.
  void* (*mark)(void* queue);
  void (*wait_mark)(void* queue, void* mark);
  // A mark that is told when the queue comes to it. Nobody waits: seconds_between() two of them, in the order of their
  // making, is not-a-number until the device has come to both. Each is released once.
  TimeMark (*time_mark)(void* queue);
  double (*seconds_between)(const TimeMark& from, const TimeMark& to);
  void (*release_time_mark)(const TimeMark& mark);
  // Memory in use (on a GPU by all processes), and all there is.
  void (*memory)(std::size_t* used_bytes, std::size_t* total_bytes);
};
const Device& cpu_device();

class Stream {
 public:
  // Of the CPU. num_threads < 1 takes the number of processors that this process may use.
  explicit Stream(int num_threads = 0);
  // Of a device; on the CPU with num_threads as above.
  explicit Stream(const Device& device, int num_threads = 0);
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  const Device& device() const { return *device_; }
  bool is_cpu() const { return device_->kind == DeviceKind::kCpu; }
  void* queue() const { return queue_; }
  void copy(void* to, const void* from, std::size_t bytes) { device_->copy(queue_, to, from, bytes); }
  void zero(void* memory, std::size_t bytes) { device_->zero(queue_, memory, bytes); }
  void synchronize() { device_->synchronize(queue_); }
  void* mark() { return device_->mark(queue_); }
  void wait_mark(void* mark) { device_->wait_mark(queue_, mark); }
  TimeMark time_mark() { return device_->time_mark(queue_); }

  // Of the CPU alone: 64-byte aligned scratch of one thread (index 0 .. num_threads-1), valid inside one kernel call. The
  // memory is kScratchBytes long and is only touched when used.
  int num_threads() const { return num_threads_; }
  std::byte* scratch(int thread) const { return scratch_ + static_cast<std::size_t>(thread) * kScratchBytes; }
  static constexpr std::size_t kScratchBytes = std::size_t{16} << 20;

 private:
  const Device* device_;
  void* queue_;
  int num_threads_;
  std::byte* scratch_ = nullptr;
};

// Processors that this process may use (sched_getaffinity).
int num_usable_processors();

}  // namespace moe
