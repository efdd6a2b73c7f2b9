// The threads of a block as fibers of one host thread. Not here: streams and memory (runtime.cpp).
#pragma once

#include "tests/cuda_on_host/cuda_runtime.h"

namespace cuda_on_host {

// Every block of the grid, one after the other.
void run_grid(dim3 grid, dim3 block, std::size_t shared_bytes, const std::function<void()>& body);

}  // namespace cuda_on_host
