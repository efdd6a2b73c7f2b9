// When a run saves, and what a failed save means: --save-every, --mtbf and --save-fail. Pure. Not here: saving.
#pragma once

#include <cstdint>
#include <string>

namespace moe {

struct SaveEvery {
  bool is_auto = false;
  std::int64_t steps = 0;                           // 0: at the end only
  static SaveEvery parse(const std::string& text);  // "auto" or a number; else Error(kUsage)
};

struct SaveFailPolicy {
  int limit = 3;                                         // so many failures in a row end the run; 1: the first one does
  static SaveFailPolicy parse(const std::string& text);  // "warn:N" or "stop"; else Error(kUsage)
};

// Young and Daly: time between saves that costs least if a failure comes every mtbf_seconds and training stands still for
// cost_seconds a save: sqrt(2 * cost * mtbf). At least twice the time until a save is on the disk (one is in flight at a
// time), and one step.
std::int64_t steps_between_saves(double cost_seconds, double save_seconds, double mtbf_seconds, double step_seconds);

}  // namespace moe
