// Events, which are kept: the driver takes longer to make one than to record it. Those with times cost the device a little
// more. Any thread. Included by kernels/*.cu only.
#pragma once

#include <cuda_runtime.h>

namespace moe::cuda {

cudaEvent_t take_event();
void give_event(cudaEvent_t event);  // may be recorded again
cudaEvent_t take_timed_event();
void give_timed_event(cudaEvent_t event);

}  // namespace moe::cuda
