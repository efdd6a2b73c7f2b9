// The stand-in for CUDA's runtime: memory that the host may not touch, streams that run when somebody waits, blocks of
// fibers. One lock: streams of several host threads take turns. What a GPU would make the host wait for is counted
// (counts.h). See cuda_runtime.h.
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "tests/cuda_on_host/counts.h"
#include "tests/cuda_on_host/cuda.h"
#include "tests/cuda_on_host/fibers.h"

struct cuda_on_host_stream {
  struct Work {
    std::function<void()> run;
    std::function<bool()> done;  // in its place: tries, until it says true; what comes behind waits
  };
  std::deque<Work> work;
  unsigned eagerness = 0;  // see go_ahead()
};
struct cuda_on_host_event {
  bool has_time;
  cuda_on_host_stream* stream = nullptr;
  std::shared_ptr<bool> happened = std::make_shared<bool>(true);
  // When all that was in the stream before it was done.
  std::shared_ptr<std::chrono::steady_clock::time_point> at{};
};

namespace cuda_on_host {
namespace {

bool launches_block() {
  static const bool set = [] {
    const char* v = std::getenv("CUDA_LAUNCH_BLOCKING");
    return v != nullptr && v[0] == '1';
  }();
  return set;
}

// ---- Memory of the device: one range of addresses that only work of the device may touch.

constexpr std::size_t kPage = 4096, kRange = std::size_t{1} << 40;
std::size_t device_bytes() {  // what the device says it has
  const char* v = std::getenv("MOE_CUDA_ON_HOST_BYTES");
  return v ? std::strtoull(v, nullptr, 10) : std::size_t{16} << 30;
}

class Memory {
 public:
  Memory() {
    base_ =
        static_cast<unsigned char*>(mmap(nullptr, kRange, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base_ == MAP_FAILED) std::abort();
  }
  void* take(std::size_t bytes) {
    const std::size_t size = (bytes + 2 * kPage - 1) / kPage * kPage;  // with some of a page behind it
    if (used_ + size > device_bytes() || next_ + size > kRange) return nullptr;
    unsigned char* p = base_ + next_;
    next_ += size + kPage;  // never handed out again: what points to it faults
    used_ += size;
    blocks_[p] = size;
    protect(p, size, launches_block() || depth_ > 0);
    return p;
  }
  void give(void* p) {
    const auto it = blocks_.find(static_cast<unsigned char*>(p));
    if (it == blocks_.end()) std::abort();
    used_ -= it->second;
    mmap(it->first, it->second, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    blocks_.erase(it);
  }
  // Addresses without memory, and memory of so many bytes behind some of them.
  void* reserve(std::size_t bytes) {
    if (next_ + bytes > kRange) return nullptr;
    unsigned char* const p = base_ + next_;
    next_ += bytes + kPage;
    return p;
  }
  bool create(std::size_t bytes) {
    if (used_ + bytes > device_bytes()) return false;
    used_ += bytes;
    return true;
  }
  void map(void* at, std::size_t bytes) {
    auto* const p = static_cast<unsigned char*>(at);
    blocks_[p] = bytes;
    protect(p, bytes, true);
    memset(p, 0xff, bytes);
    protect(p, bytes, launches_block() || depth_ > 0);
  }
  bool has(const void* p) const { return p >= base_ && p < base_ + kRange; }
  std::size_t used() const { return used_; }
  void open() {
    if (depth_++ > 0 || launches_block()) return;
    for (const auto& [p, size] : blocks_) protect(p, size, true);
  }
  void close() {
    if (--depth_ > 0 || launches_block()) return;
    for (const auto& [p, size] : blocks_) protect(p, size, false);
  }

 private:
  static void protect(unsigned char* p, std::size_t size, bool open) {
    if (mprotect(p, size, open ? PROT_READ | PROT_WRITE : PROT_NONE) != 0) std::abort();
  }
  unsigned char* base_;
  std::size_t next_ = 0, used_ = 0;
  int depth_ = 0;
  std::map<unsigned char*, std::size_t> blocks_;
};

Memory& device_memory() {
  static Memory memory;
  return memory;
}
std::recursive_mutex& lock() {
  static std::recursive_mutex mutex;
  return mutex;
}
std::map<void*, std::size_t>& pinned() {
  static std::map<void*, std::size_t> blocks;
  return blocks;
}
bool is_pageable(const void* p) {
  if (device_memory().has(p)) return false;
  auto it = pinned().upper_bound(const_cast<void*>(p));
  if (it == pinned().begin()) return true;
  --it;
  return static_cast<const unsigned char*>(p) >= static_cast<unsigned char*>(it->first) + it->second;
}

// Everything in a stream, or up to an event, or so many pieces of work, as far as it comes without the work of another
// thread. True: so far it came.
bool advance(cudaStream_t stream, const bool* until = nullptr, std::size_t most = SIZE_MAX) {
  const std::lock_guard guard(lock());
  if (!stream) return true;
  device_memory().open();
  bool moves = true;
  while (moves && !stream->work.empty() && !(until && *until) && most-- > 0) {
    if (const auto& done = stream->work.front().done) {
      moves = done();
      if (moves) stream->work.pop_front();
    } else {
      const auto work = std::move(stream->work.front().run);
      stream->work.pop_front();
      work();
    }
  }
  device_memory().close();
  return moves;
}
void drain(cudaStream_t stream, const bool* until = nullptr) {
  while (!advance(stream, until)) std::this_thread::sleep_for(std::chrono::microseconds(20));
}

std::vector<cudaStream_t>& streams() {
  static std::vector<cudaStream_t> list;
  return list;
}

// A device does not wait until somebody waits for it. With MOE_CUDA_ON_HOST_PACE=N streams do work whenever something comes
// into one of them, too: for a while one of them all of it, another a piece at a time, a third nothing. Which one does what,
// and how long, is drawn from the seed N.
void go_ahead() {
  static const char* const seed = std::getenv("MOE_CUDA_ON_HOST_PACE");
  if (seed == nullptr) return;
  static unsigned drawn = static_cast<unsigned>(std::strtoul(seed, nullptr, 10));
  const auto below = [](unsigned n) { return (++drawn * 2654435761u >> 16) % n; };
  static unsigned left = 0;
  if (left == 0) {
    left = 1 + below(40);
    for (cudaStream_t s : streams()) s->eagerness = below(3);
  }
  --left;
  for (cudaStream_t s : streams())
    if (s->eagerness > 0) advance(s, nullptr, s->eagerness == 1 ? 1 : SIZE_MAX);
}

}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  const std::lock_guard guard(lock());
  stream->work.push_back({std::move(work), {}});
  launches_block() ? void(advance(stream)) : go_ahead();
}
void enqueue_until(cudaStream_t stream, std::function<bool()> done) {
  const std::lock_guard guard(lock());
  stream->work.push_back({{}, std::move(done)});
  launches_block() ? void(advance(stream)) : go_ahead();
}
std::recursive_mutex& device_lock() { return lock(); }

void run(cudaStream_t stream, dim3 grid, dim3 block, std::size_t shared, std::function<void()> body) {
  count(Counted::kLaunches);
  enqueue(stream, [=, body = std::move(body)] { run_grid(grid, block, shared, body); });
}

}  // namespace cuda_on_host

using namespace cuda_on_host;

namespace {

// What waits for another thread is left: a device of its own would not wait.
void settle() {
  const std::lock_guard guard(lock());
  for (cudaStream_t s : streams()) advance(s);
}

}  // namespace

const char* cudaGetErrorString(cudaError_t e) {
  return e == cudaSuccess ? "no error" : e == cudaErrorMemoryAllocation ? "out of memory" : "invalid argument";
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* n) { return *n = 1, cudaSuccess; }
cudaError_t cudaGetDevice(int* i) { return *i = 0, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  *p = {"stand-in on the host", 9, 0, 4};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int) {
  std::snprintf(text, static_cast<std::size_t>(size), "0000:00:00.0");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* v, cudaDeviceAttr which, int) {
  *v = which == cudaDevAttrMultiProcessorCount ? 4 : which == cudaDevAttrL2CacheSize ? 50 << 20 : 227 * 1024;
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
  count(Counted::kWaits);
  return settle(), cudaSuccess;
}
cudaError_t cudaMalloc(void** p, std::size_t bytes) {
  count(Counted::kAllocations);
  const std::lock_guard guard(lock());
  *p = device_memory().take(bytes);
  return *p ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  count(Counted::kFrees);
  settle();
  const std::lock_guard guard(lock());
  device_memory().give(p);
  return cudaSuccess;
}
cudaError_t cudaMallocManaged(void** p, std::size_t bytes) {
  *p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return *p != MAP_FAILED ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaMallocHost(void** p, std::size_t bytes) {
  count(Counted::kAllocations);
  const std::lock_guard guard(lock());
  *p = std::malloc(bytes > 0 ? bytes : 1);
  pinned()[*p] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* p) {
  count(Counted::kFrees);
  settle();
  const std::lock_guard guard(lock());
  pinned().erase(p);
  std::free(p);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::lock_guard guard(lock());
  *total = device_bytes();
  *free = *total - device_memory().used();
  return cudaSuccess;
}
cudaError_t cudaMemset(void* p, int v, std::size_t bytes) {
  const std::lock_guard guard(lock());
  device_memory().open();
  std::memset(p, v, bytes);
  device_memory().close();
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* p, int v, std::size_t bytes, cudaStream_t stream) {
  count(Counted::kMemsets);
  enqueue(stream, [=] { std::memset(p, v, bytes); });
  return cudaSuccess;
}
// Pageable memory is read at once, as CUDA does, and never written before somebody waits: a promise of the device is none.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  bool copies = false;
  {
    const std::lock_guard guard(lock());
    const auto side = [](const void* p) {
      return device_memory().has(p) ? Side::kDevice : is_pageable(p) ? Side::kPageable : Side::kPinned;
    };
    copies = side(from) == Side::kPageable;
    count_copy(side(from), side(to), bytes);
  }
  if (!copies) {
    enqueue(stream, [=] { std::memcpy(to, from, bytes); });
    return cudaSuccess;
  }
  const auto* begin = static_cast<const unsigned char*>(from);
  enqueue(stream,
          [to, data = std::vector<unsigned char>(begin, begin + bytes)] { std::memcpy(to, data.data(), data.size()); });
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned) {
  count(Counted::kMade);
  const std::lock_guard guard(lock());
  streams().push_back(*s = new cuda_on_host_stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t s) {
  drain(s);
  const std::lock_guard guard(lock());
  std::erase(streams(), s);
  delete s;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  count(Counted::kWaits);
  return drain(s), cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned flags) {
  count(Counted::kMade);
  return *e = new cuda_on_host_event{.has_time = (flags & cudaEventDisableTiming) == 0}, cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t e) { return delete e, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) {
  e->stream = s;
  e->happened = std::make_shared<bool>(false);
  e->at = std::make_shared<std::chrono::steady_clock::time_point>();
  enqueue(s, [happened = e->happened, at = e->at] {
    *at = std::chrono::steady_clock::now();
    *happened = true;
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t e) {
  const std::lock_guard guard(lock());
  if (e->stream) advance(e->stream, e->happened.get());
  return *e->happened ? cudaSuccess : cudaErrorNotReady;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  count(Counted::kWaits);
  if (e->stream) drain(e->stream, e->happened.get());
  return cudaSuccess;
}
// Waits for nobody, and brings no stream further: what was not waited for has no time yet.
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t from, cudaEvent_t to) {
  const std::lock_guard guard(lock());
  if (!from->has_time || !to->has_time || !from->at || !to->at) return cudaErrorInvalidResourceHandle;
  if (!*from->happened || !*to->happened) return cudaErrorNotReady;
  *ms = std::chrono::duration<float, std::milli>(*to->at - *from->at).count();
  return cudaSuccess;
}
// What the other stream has to do before is done when this one comes here.
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned) {
  if (e->stream && e->stream != s)
    enqueue_until(s, [other = e->stream, happened = e->happened] {
      if (!*happened) advance(other, happened.get());
      return *happened;
    });
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

// ---- Memory behind addresses that were reserved. A handle is the number of its bytes.

namespace {

constexpr std::size_t kDriverPage = std::size_t{64} << 10;  // smaller than a GPU's, so that small models have several
void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(p)); }

}  // namespace

CUresult cuMemGetAllocationGranularity(std::size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  return *bytes = kDriverPage, CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr* p, std::size_t bytes, std::size_t, CUdeviceptr, unsigned long long) {
  const std::lock_guard guard(lock());
  void* const at = bytes % kDriverPage == 0 ? device_memory().reserve(bytes) : nullptr;
  *p = static_cast<CUdeviceptr>(reinterpret_cast<std::uintptr_t>(at));
  return at ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemAddressFree(CUdeviceptr, std::size_t) { return CUDA_SUCCESS; }
CUresult cuMemCreate(CUmemGenericAllocationHandle* memory, std::size_t bytes, const CUmemAllocationProp*,
                     unsigned long long) {
  count(Counted::kAllocations);
  const std::lock_guard guard(lock());
  *memory = bytes;
  return device_memory().create(bytes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle) { return CUDA_SUCCESS; }
CUresult cuMemMap(CUdeviceptr p, std::size_t bytes, std::size_t, CUmemGenericAllocationHandle memory, unsigned long long) {
  const std::lock_guard guard(lock());
  if (bytes != memory || bytes % kDriverPage != 0) return CUDA_ERROR_INVALID_VALUE;
  device_memory().map(pointer(p), bytes);
  return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr p, std::size_t) {
  const std::lock_guard guard(lock());
  device_memory().give(pointer(p));
  return CUDA_SUCCESS;
}
CUresult cuMemSetAccess(CUdeviceptr, std::size_t, const CUmemAccessDesc*, std::size_t) { return CUDA_SUCCESS; }

cudaError_t cudaGetDriverEntryPointByVersion(const char* name, void** function, unsigned, unsigned long long,
                                             cudaDriverEntryPointQueryResult* found) {
  const std::map<std::string, void*> known = {
      {"cuTensorMapEncodeTiled", reinterpret_cast<void*>(&cuTensorMapEncodeTiled)},
      {"cuMemGetAllocationGranularity", reinterpret_cast<void*>(&cuMemGetAllocationGranularity)},
      {"cuMemAddressReserve", reinterpret_cast<void*>(&cuMemAddressReserve)},
      {"cuMemAddressFree", reinterpret_cast<void*>(&cuMemAddressFree)},
      {"cuMemCreate", reinterpret_cast<void*>(&cuMemCreate)},
      {"cuMemRelease", reinterpret_cast<void*>(&cuMemRelease)},
      {"cuMemMap", reinterpret_cast<void*>(&cuMemMap)},
      {"cuMemUnmap", reinterpret_cast<void*>(&cuMemUnmap)},
      {"cuMemSetAccess", reinterpret_cast<void*>(&cuMemSetAccess)}};
  const auto it = known.find(name);
  *function = it != known.end() ? it->second : nullptr;
  *found = *function ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  return cudaSuccess;
}
