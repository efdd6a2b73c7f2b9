// What kernels of every device check of their arguments: std::invalid_argument, one line that names the operation. Thrown
// before anything is computed. Functions of each file that includes this, because files are compiled for different
// processors and the linker takes one of several equal functions. Included by kernels only. Not here: values (dispatch.h, of
// the CPU).
#pragma once

#include <cstdio>
#include <stdexcept>

#include "kernels/kernels.h"

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

// Head width, turned columns and rows of kernels.h's RoPE.
static inline void expect_rope_shape(const char* op, const CMat& x_TC, const RopeShape& s,
                                     std::span<const std::int32_t> pos_T) {
  const std::int64_t turned = s.turned();
  expect_count(op, "pos", static_cast<std::int64_t>(pos_T.size()), x_TC.rows);
  if (s.first < 0 || turned < 2 || turned % 2 != 0 || s.first + turned > s.head_dim || x_TC.cols % s.head_dim != 0)
    expect_shape(op, "x (a multiple of a head width that holds an even number of turned columns)", x_TC, x_TC.rows, -1);
}
inline constexpr std::int64_t kMaxRoutedExperts = 65536;  // so that a CPU thread's rows of keys fit its scratch memory

static inline void expect_router_shape(const char* op, const RouterShape& s) {
  const std::int64_t group = s.num_groups >= 1 ? s.num_experts / s.num_groups : 0;
  if (s.num_experts >= 1 && s.top_k >= 1 && s.num_groups >= 1 && group * s.num_groups == s.num_experts &&
      s.num_groups_kept >= 1 && s.num_groups_kept <= s.num_groups && s.top_k <= s.num_groups_kept * group &&
      s.num_experts <= kMaxRoutedExperts)
    return;
  char text[256];
  std::snprintf(text, sizeof text,
                "%s: expected equal groups of experts and no more choices than the kept groups hold, found %d experts, "
                "top %d, %d of %d groups",
                op, s.num_experts, s.top_k, s.num_groups_kept, s.num_groups);
  throw std::invalid_argument(text);
}
static inline void expect_cache_attention_shapes(const AttentionShape& s, const CMat& q, const CMat& k, const CMat& v,
                                                 std::span<const std::int64_t> first_row_T,
                                                 std::span<const std::int32_t> num_keys_T, const CMat& o) {
  const char* op = "cache_attention";
  const std::int64_t S = s.head_dim, V = s.value_dim;
  require(s.num_kv_heads > 0 && s.num_heads % s.num_kv_heads == 0,
          "cache_attention: num_heads is not a multiple of num_kv_heads");
  expect_shape(op, "q", q, q.rows, s.num_heads * S);
  expect_shape(op, "k", k, k.rows, s.num_kv_heads * S);
  expect_shape(op, "v", v, k.rows, s.num_kv_heads * V);
  expect_shape(op, "o", o, q.rows, s.num_heads * V);
  expect_count(op, "first_row", static_cast<std::int64_t>(first_row_T.size()), q.rows);
  expect_count(op, "num_keys", static_cast<std::int64_t>(num_keys_T.size()), q.rows);
}

}  // namespace moe
