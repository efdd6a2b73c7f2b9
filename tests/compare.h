// The one comparison of the tests. Every judgement is written so that not-a-number fails.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>

namespace moe {

// The largest error of got against want, relative to the largest |want|; NaN if any element is NaN.
struct WorstError {
  double relative = 0;
  std::size_t at = 0;  // element of the largest error
};
template <class A, class B>
WorstError worst_error(std::span<const A> got, std::span<const B> want) {
  double scale = 1e-30;
  for (const B& w : want) scale = std::fmax(scale, std::fabs(static_cast<double>(w)));
  WorstError worst;
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double e = std::fabs(static_cast<double>(got[i]) - static_cast<double>(want[i])) / scale;
    if (e <= worst.relative) continue;
    worst = {e, i};
    if (std::isnan(e)) break;
  }
  return worst;
}

// |got - want| <= tolerance * max |want| for every element; a NaN anywhere fails.
template <class A, class B>
::testing::AssertionResult close_to(std::span<const A> got, std::span<const B> want, double tolerance) {
  if (got.size() != want.size())
    return ::testing::AssertionFailure() << "sizes differ: " << got.size() << " and " << want.size();
  const WorstError e = worst_error(got, want);
  if (e.relative <= tolerance) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "error " << e.relative << " of the largest value > " << tolerance << " at element "
                                       << e.at << ": got " << got[e.at] << ", want " << want[e.at];
}

// The same bits.
inline ::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size())
    return ::testing::AssertionFailure() << "sizes differ: " << got.size() << " and " << want.size();
  for (std::size_t i = 0; i < want.size(); ++i)
    if (std::memcmp(&got[i], &want[i], sizeof(float)) != 0)
      return ::testing::AssertionFailure() << "first difference at element " << i << ": got " << got[i] << ", want " << want[i];
  return ::testing::AssertionSuccess();
}

}  // namespace moe
