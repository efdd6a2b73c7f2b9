#include <mutex>
#include <vector>

#include "kernels/cuda.h"
#include "kernels/cuda_events.h"

namespace moe::cuda {
namespace {

std::mutex mutex;
std::vector<cudaEvent_t> free_events;  // they end with the process

}  // namespace

cudaEvent_t take_event() {
  const std::lock_guard lock(mutex);
  cudaEvent_t event;
  if (free_events.empty()) {
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event");
    return event;
  }
  event = free_events.back();
  free_events.pop_back();
  return event;
}

void give_event(cudaEvent_t event) {
  const std::lock_guard lock(mutex);
  free_events.push_back(event);
}

}  // namespace moe::cuda
