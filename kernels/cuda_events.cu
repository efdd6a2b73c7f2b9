#include <mutex>
#include <vector>

#include "kernels/cuda.h"
#include "kernels/cuda_events.h"

namespace moe::cuda {
namespace {

class Events {
 public:
  explicit Events(unsigned flags) : flags_(flags) {}
  cudaEvent_t take() {
    const std::lock_guard lock(mutex_);
    cudaEvent_t event;
    if (free_.empty()) {
      check(cudaEventCreateWithFlags(&event, flags_), "event");
      return event;
    }
    event = free_.back();
    free_.pop_back();
    return event;
  }
  void give(cudaEvent_t event) {
    const std::lock_guard lock(mutex_);
    free_.push_back(event);
  }

 private:
  unsigned flags_;
  std::mutex mutex_;
  std::vector<cudaEvent_t> free_;  // they end with the process
};

Events plain_events(cudaEventDisableTiming), timed_events(cudaEventDefault);

}  // namespace

cudaEvent_t take_event() { return plain_events.take(); }
void give_event(cudaEvent_t event) { plain_events.give(event); }
cudaEvent_t take_timed_event() { return timed_events.take(); }
void give_timed_event(cudaEvent_t event) { timed_events.give(event); }

}  // namespace moe::cuda
