// operator new for the tests of CUDA kernels (kernel_device.h): memory that host and device share, cut from one piece that
// is taken once, so that a std::vector of a test is an argument of a kernel. Other tests get malloc. What is given back
// serves the next wish of its size. Part of the programs that name all_isas(), by the linker.
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "kernels/cuda_plugin.h"
#include "tests/kernel_device.h"

namespace {

constexpr std::size_t kPoolBytes = std::size_t{4} << 30, kAlign = 64;

struct Header {  // in front of every piece
  std::size_t bytes;
  Header* next;
};

struct Pool {
  std::mutex mutex;
  unsigned char* base = nullptr;
  std::size_t used = 0;
  bool opening = false;
  Header* free[64] = {};  // by the power of two

  // False while the pool itself is made, which needs memory too.
  bool ready() {
    if (base) return true;
    if (opening || !moe::tests_cuda()) return false;
    opening = true;
    moe::kernel_device();
    base = static_cast<unsigned char*>(moe::cuda_status().plugin->allocate_shared(kPoolBytes));
    if (!base) std::abort();
    return true;
  }
  void* take(std::size_t bytes) {
    std::size_t size = 2 * kAlign;
    int power = 0;
    for (; size < bytes + kAlign; size *= 2) ++power;
    if (Header* h = free[power]) {
      free[power] = h->next;
      return reinterpret_cast<unsigned char*>(h) + kAlign;
    }
    if (used + size > kPoolBytes) return nullptr;
    auto* h = reinterpret_cast<Header*>(base + used);
    used += size;
    h->bytes = static_cast<std::size_t>(power);
    return reinterpret_cast<unsigned char*>(h) + kAlign;
  }
  bool has(void* p) const { return base && p >= base && p < base + kPoolBytes; }
  void give(void* p) {
    auto* h = reinterpret_cast<Header*>(static_cast<unsigned char*>(p) - kAlign);
    h->next = std::exchange(free[h->bytes], h);
  }
};
Pool& pool() {
  static Pool* const p = new (std::malloc(sizeof(Pool))) Pool;  // never ends: others end after it
  return *p;
}

}  // namespace

void* operator new(std::size_t bytes) {
  static thread_local bool inside = false;  // what making the pool needs
  void* p = nullptr;
  if (inside || !moe::tests_cuda()) {
    p = std::malloc(bytes > 0 ? bytes : 1);
  } else {
    const std::lock_guard guard(pool().mutex);
    inside = true;
    p = pool().ready() ? pool().take(bytes) : std::malloc(bytes);
    inside = false;
  }
  if (!p) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept {
  if (!p) return;
  if (!moe::tests_cuda() || !pool().has(p)) return std::free(p);
  const std::lock_guard guard(pool().mutex);
  pool().give(p);
}
void operator delete(void* p, std::size_t) noexcept { operator delete(p); }
