#include "kernels/device.h"

#include <sched.h>
#include <sys/mman.h>

#include <chrono>
#include <cstring>
#include <new>

namespace moe {
namespace {

void* map(std::size_t bytes) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return nullptr;
  madvise(p, bytes, MADV_HUGEPAGE);  // fewer page faults; refusal costs only time
  return p;
}
void unmap(void* memory, std::size_t bytes) { munmap(memory, bytes); }

bool is_there(void*, std::size_t) { return true; }

void* no_queue() { return nullptr; }
void nothing(void*) {}
void copy(void*, void* to, const void* from, std::size_t bytes) {
  if (bytes > 0) std::memmove(to, from, bytes);
}
void zero(void*, void* memory, std::size_t bytes) {
  if (bytes > 0) std::memset(memory, 0, bytes);
}
void* mark(void*) { return nullptr; }
void wait_mark(void*, void*) {}
TimeMark time_mark(void*) { return {.ns = host_clock_ns()}; }
double seconds_between(const TimeMark& from, const TimeMark& to) { return 1e-9 * static_cast<double>(to.ns - from.ns); }
void release_time_mark(const TimeMark&) {}
void memory(std::size_t* used_bytes, std::size_t* total_bytes) { *used_bytes = *total_bytes = 0; }

constexpr Device kCpuDevice = {DeviceKind::kCpu,
                               "cpu",
                               map,
                               map,
                               is_there,
                               unmap,
                               map,
                               unmap,
                               no_queue,
                               nothing,
                               copy,
                               zero,
                               nothing,
                               mark,
                               wait_mark,
                               time_mark,
                               seconds_between,
                               release_time_mark,
                               memory};

}  // namespace

std::int64_t host_clock_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

const Device& cpu_device() { return kCpuDevice; }

int num_usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  const int n = CPU_COUNT(&set);
  return n > 0 ? n : 1;
}

Stream::Stream(int num_threads) : Stream(cpu_device(), num_threads) {}

Stream::Stream(const Device& device, int num_threads)
    : device_(&device), queue_(device.make_queue()), num_threads_(num_threads > 0 ? num_threads : num_usable_processors()) {
  if (!is_cpu()) return;
  scratch_ = static_cast<std::byte*>(map(kScratchBytes * static_cast<std::size_t>(num_threads_)));
  if (!scratch_) throw std::bad_alloc();
}

Stream::~Stream() {
  if (scratch_) unmap(scratch_, kScratchBytes * static_cast<std::size_t>(num_threads_));
  device_->free_queue(queue_);
}

}  // namespace moe
