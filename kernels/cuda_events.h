// Events without times, which are kept: the driver takes longer to make one than to record it. Any thread. Included by
// kernels/*.cu only.
#pragma once

#include <cuda_runtime.h>

namespace moe::cuda {

cudaEvent_t take_event();
void give_event(cudaEvent_t event);  // may be recorded again

}  // namespace moe::cuda
