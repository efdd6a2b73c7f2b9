// What the rows of `moe-bench kernels` share that are bound by memory: their check of sampled rows, their cases.
// Not here: the rows themselves (bench_row_ops.cpp, bench_ffn_ops.cpp).
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <vector>

#include "lib/run/bench_cases.h"

namespace moe {

inline constexpr double kRowTolerance = 1e-5;  // relative to the largest wanted element of a row
inline constexpr int kSampledRows = 16;

using Values = std::vector<double>;

inline Values row_of(CMat m, std::int64_t i) {
  const float* p = m.f32() + i * m.stride;
  return {p, p + m.cols};
}
inline void compare(std::span<const float> got, const Values& want, WorstDeviation& worst) {
  double scale = 0;
  for (const double w : want) scale = std::fmax(scale, std::fabs(w));
  for (std::size_t i = 0; i < want.size(); ++i) worst.add(got[i], want[i], scale);
}
// want(i) -> Values of row i, for sampled rows of `got`.
template <class Want>
double error_of_rows(CMat got, Want want) {
  WorstDeviation worst;
  for (int s = 0; s < kSampledRows; ++s) {
    const std::int64_t i = (got.rows - 1) * s / (kSampledRows - 1);
    compare({got.f32() + i * got.stride, static_cast<std::size_t>(got.cols)}, want(i), worst);
  }
  return worst.value();
}

// The common shape of a case: sets of operands, run(set), error(sets) after one more run.
template <class Take, class Run, class Error>
BenchCase bytes_case(const BenchTarget& t, double bytes, Take take, Run run, Error error) {
  const auto all = take_sets(t.env.stream, t.dtype, false, take);
  return {.unit = RateUnit::kGbytes,
          .work = bytes,
          .tolerance = t.tolerance(kRowTolerance),
          .num_sets = all->size(),
          .run = [=](int call) { run(all->of(call)); },
          .error = [=] { return error(*all); }};
}

}  // namespace moe
