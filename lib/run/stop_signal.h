// SIGUSR1, SIGTERM and SIGINT ask a run to save and stop after its step; a second one ends the process at once (the newest
// complete checkpoint is not touched by that).
#pragma once

#include <signal.h>

#include <cstddef>
#include <vector>

namespace moe {

class StopSignal {
 public:
  StopSignal();   // installs the handlers
  ~StopSignal();  // puts the old ones back
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;
  // Since the latest was made.
  static bool received();
  static bool terminated();  // by SIGTERM

 private:
  static constexpr std::size_t kStackBytes = std::size_t{1} << 16;
  std::vector<std::byte> stack_;
  stack_t old_stack_{};
};

}  // namespace moe
