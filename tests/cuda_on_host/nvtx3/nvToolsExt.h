// Stands in for NVTX: ranges of a thread must be paired; counting may begin with one (counts.h). Not here: a profiler.
#pragma once

#include <cstdlib>

#include "tests/cuda_on_host/counts.h"

inline int& nvtx_depth() {
  static thread_local int depth = 0;
  return depth;
}
inline int nvtxRangePushA(const char* name) {
  if (name == nullptr) std::abort();
  cuda_on_host::enter_range(name);
  return nvtx_depth()++;
}
inline int nvtxRangePop() {
  if (nvtx_depth() == 0) std::abort();
  return --nvtx_depth();
}
