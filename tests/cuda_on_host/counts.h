// What costs a host time, counted: calls on which a GPU makes it wait, launches, copies, allocations. All threads of the
// process together. With MOE_CUDA_ON_HOST_COUNTS=FILE they are written to the file when the process ends, one `NAME NUMBER`
// a line; with MOE_CUDA_ON_HOST_COUNTS_FROM=RANGE from when a range of that name (NVTX) is first entered. Two runs that
// differ by a step differ by what a step costs.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cuda_on_host {

enum class Counted : std::uint8_t {
  kWaits,          // for a stream, an event or the device
  kCopyWaits,      // copies that return when they are done: to pageable memory; from it beyond 64 KiB
  kLaunches,       // of kernels and of the BLAS
  kMemsets,        //
  kToDevice,       // copies ...
  kToHost,         //
  kOnDevice,       //
  kToDeviceBytes,  // ... and their bytes
  kToHostBytes,    //
  kOnDeviceBytes,  //
  kAllocations,    // of memory of the device, pinned or mapped: the driver's time, and often a wait
  kFrees,          // each waits for the device
  kMade,           // streams and events
  kNum
};
void count(Counted what, std::uint64_t n = 1);
void enter_range(const char* name);

enum class Side : std::uint8_t { kDevice, kPinned, kPageable };
void count_copy(Side from, Side to, std::size_t bytes);

}  // namespace cuda_on_host
