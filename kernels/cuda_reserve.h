// Device::reserve() and commit() on CUDA: a range of addresses, and memory that is mapped behind it in pages as it is asked
// for (virtual memory management of the driver). Not here: memory that is there from the start (cuda_device.cu).
#pragma once

#include <cstddef>

namespace moe::cuda {

void* reserve(std::size_t bytes);
bool commit(void* p, std::size_t bytes);
bool release_reserved(void* p);  // false: it is none of these

}  // namespace moe::cuda
