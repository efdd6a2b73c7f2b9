#include "kernels/device.h"

#include <sched.h>
#include <sys/mman.h>

#include <new>

namespace moe {

int num_usable_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  const int n = CPU_COUNT(&set);
  return n > 0 ? n : 1;
}

Stream::Stream(int num_threads) : num_threads_(num_threads > 0 ? num_threads : num_usable_processors()) {
  const std::size_t bytes = kScratchBytes * static_cast<std::size_t>(num_threads_);
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  madvise(p, bytes, MADV_HUGEPAGE);  // fewer page faults; refusal costs only time
  scratch_ = static_cast<std::byte*>(p);
}

Stream::~Stream() { munmap(scratch_, kScratchBytes * static_cast<std::size_t>(num_threads_)); }

}  // namespace moe
