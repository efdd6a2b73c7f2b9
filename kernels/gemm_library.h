// The door to a matrix product library (oneDNN), for the shapes at which it is faster than gemm.cpp.
#pragma once

#include "kernels/view.h"

namespace moe {

// c [m, n] (=|+=) op(a) op(b), row-major fp32; op(a) is [m, k], op(b) is [k, n].
struct LibraryProduct {
  bool transposed_a, transposed_b;
  std::int64_t m, n, k;
  const float* a;
  std::int64_t a_stride;
  const float* b;
  std::int64_t b_stride;
  float* c;
  std::int64_t c_stride;
  Store store;
};

// On the calling thread alone: its bits depend on the arguments only. False, and nothing done, in a build without the
// library.
bool library_sgemm(const LibraryProduct& product);

}  // namespace moe
