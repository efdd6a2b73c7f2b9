#include <algorithm>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "kernels/cuda_driver.h"
#include "kernels/cuda_reserve.h"

namespace moe::cuda {
namespace {

struct Driver {
  decltype(&cuMemAddressReserve) reserve = driver_function<decltype(&cuMemAddressReserve)>("cuMemAddressReserve");
  decltype(&cuMemAddressFree) free = driver_function<decltype(&cuMemAddressFree)>("cuMemAddressFree");
  decltype(&cuMemCreate) create = driver_function<decltype(&cuMemCreate)>("cuMemCreate");
  decltype(&cuMemRelease) release = driver_function<decltype(&cuMemRelease)>("cuMemRelease");
  decltype(&cuMemMap) map = driver_function<decltype(&cuMemMap)>("cuMemMap");
  decltype(&cuMemUnmap) unmap = driver_function<decltype(&cuMemUnmap)>("cuMemUnmap");
  decltype(&cuMemSetAccess) set_access = driver_function<decltype(&cuMemSetAccess)>("cuMemSetAccess");
  decltype(&cuMemGetAllocationGranularity) granularity =
      driver_function<decltype(&cuMemGetAllocationGranularity)>("cuMemGetAllocationGranularity");
};
const Driver& driver() {
  static const Driver d;
  return d;
}

void need(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS)
    throw std::runtime_error(std::string("CUDA: ") + what + ": driver error " + std::to_string(static_cast<int>(result)));
}

CUmemAllocationProp on_this_device() {
  CUmemAllocationProp p{};
  p.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  p.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  check(cudaGetDevice(&p.location.id), "device");
  return p;
}

CUdeviceptr address(const void* p) { return static_cast<CUdeviceptr>(reinterpret_cast<std::uintptr_t>(p)); }

class Range {
 public:
  explicit Range(std::size_t bytes) : property_(on_this_device()) {
    need(driver().granularity(&page_, &property_, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED), "size of pages");
    is_mapped_.resize((bytes + page_ - 1) / page_);
    need(driver().reserve(&base_, is_mapped_.size() * page_, 0, 0, 0), "reserve addresses");
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() {
    for (const auto& [first, n] : maps_) driver().unmap(base_ + first * page_, n * page_);  // whole maps alone can be
    driver().free(base_, is_mapped_.size() * page_);
  }
  void* base() const { return reinterpret_cast<void*>(static_cast<std::uintptr_t>(base_)); }
  bool has(const void* p) const { return address(p) >= base_ && address(p) < base_ + is_mapped_.size() * page_; }

  bool commit(const void* p, std::size_t bytes) {
    const std::size_t begin = address(p) - base_, end = (begin + bytes + page_ - 1) / page_;
    if (end > is_mapped_.size()) throw std::runtime_error("CUDA: commit behind what was reserved");
    for (std::size_t i = begin / page_; i < end;) {
      std::size_t n = 0;  // pages from i on without memory
      while (i + n < end && !is_mapped_[i + n]) ++n;
      if (n > 0 && !map(i, n)) return false;
      i += std::max<std::size_t>(n, 1);
    }
    return true;
  }

 private:
  bool map(std::size_t first, std::size_t n) {
    CUmemGenericAllocationHandle memory{};
    const CUresult created = driver().create(&memory, n * page_, &property_, 0);
    if (created == CUDA_ERROR_OUT_OF_MEMORY) return false;
    need(created, "memory");
    const CUdeviceptr at = base_ + first * page_;
    const CUresult mapped = driver().map(at, n * page_, 0, memory, 0);
    driver().release(memory);  // it lives as long as it is mapped
    need(mapped, "map memory");
    const CUmemAccessDesc access{property_.location, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    need(driver().set_access(at, n * page_, &access, 1), "access to memory");
    maps_.push_back({first, n});
    std::fill_n(is_mapped_.begin() + static_cast<std::ptrdiff_t>(first), n, true);
    return true;
  }

  const CUmemAllocationProp property_;
  std::size_t page_ = 0;
  CUdeviceptr base_ = 0;
  std::vector<bool> is_mapped_;                            // by page
  std::vector<std::pair<std::size_t, std::size_t>> maps_;  // first page, number of them
};

struct Ranges {
  std::mutex mutex;
  std::map<const void*, std::unique_ptr<Range>> all;  // by base

  Range* find(const void* p) {
    auto it = all.upper_bound(p);
    if (it == all.begin()) return nullptr;
    --it;
    return it->second->has(p) ? it->second.get() : nullptr;
  }
};
Ranges& ranges() {
  static Ranges r;
  return r;
}

}  // namespace

void* reserve(std::size_t bytes) {
  use_device();
  const std::lock_guard lock(ranges().mutex);
  auto range = std::make_unique<Range>(bytes);
  void* const base = range->base();
  ranges().all.emplace(base, std::move(range));
  return base;
}

bool commit(void* p, std::size_t bytes) {
  use_device();
  const std::lock_guard lock(ranges().mutex);
  Range* const range = ranges().find(p);
  if (!range) throw std::runtime_error("CUDA: commit of memory that was not reserved");
  return range->commit(p, bytes);
}

bool release_reserved(void* p) {
  const std::lock_guard lock(ranges().mutex);
  return ranges().all.erase(p) > 0;
}

}  // namespace moe::cuda
