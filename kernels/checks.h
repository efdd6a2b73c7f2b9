// What kernels of every device check of their arguments: std::invalid_argument, one line that names the operation. Thrown
// before anything is computed. Functions of each file that includes this, because files are compiled for different
// processors and the linker takes one of several equal functions. Included by kernels only. Not here: values (dispatch.h, of
// the CPU).
#pragma once

#include <cstdio>
#include <stdexcept>

#include "kernels/view.h"

namespace moe {

static inline void require(bool ok, const char* message) {
  if (!ok) throw std::invalid_argument(message);
}
static inline void expect_shape(const char* op, const char* name, const CMat& m, std::int64_t rows, std::int64_t cols) {
  if (m.rows == rows && m.cols == cols && (m.stride >= cols || rows <= 1)) return;
  char text[256];
  std::snprintf(text, sizeof text, "%s: expected %s of %lld x %lld, found %lld x %lld with row stride %lld", op, name,
                static_cast<long long>(rows), static_cast<long long>(cols), static_cast<long long>(m.rows),
                static_cast<long long>(m.cols), static_cast<long long>(m.stride));
  throw std::invalid_argument(text);
}
static inline void expect_count(const char* op, const char* name, std::int64_t found, std::int64_t expected) {
  if (found == expected) return;
  char text[256];
  std::snprintf(text, sizeof text, "%s: expected %lld elements in %s, found %lld", op, static_cast<long long>(expected),
                name, static_cast<long long>(found));
  throw std::invalid_argument(text);
}
// Rows of both can stand for each other.
static inline void expect_same_rows(const char* op, const CMat& from, const CMat& to) {
  if (from.dtype == to.dtype && from.cols == to.cols) return;
  char text[256];
  std::snprintf(text, sizeof text, "%s: expected rows of %lld elements in %s, found %lld in %s", op,
                static_cast<long long>(to.cols), name_of(to.dtype), static_cast<long long>(from.cols), name_of(from.dtype));
  throw std::invalid_argument(text);
}
static inline void expect_f32(const char* op, const char* name, const CMat& m) {
  if (m.dtype == DType::kF32) return;
  char text[256];
  std::snprintf(text, sizeof text, "%s: expected %s in fp32, found %s", op, name, name_of(m.dtype));
  throw std::invalid_argument(text);
}

}  // namespace moe
