#include "lib/run/peak.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"

namespace moe {

double gemm_peak_gflops(Env env, int n, double seconds) {
  Arena arena(3 * sizeof(float) * static_cast<std::size_t>(n) * static_cast<std::size_t>(n) + 4096);
  const Mat a = arena.matrix(DType::kF32, n, n), b = arena.matrix(DType::kF32, n, n), c = arena.matrix(DType::kF32, n, n);
  const Rng rng(1, "gemm peak");  // never on zeros: processors clock differently on them
  for (std::int64_t i = 0; i < std::int64_t{n} * n; ++i) {
    a.f32()[i] = static_cast<float>(rng.uniform(static_cast<std::uint64_t>(i)) - 0.5);
    b.f32()[i] = a.f32()[i] + 0.25f;
  }
  const double flop = 2.0 * n * n * static_cast<double>(n);
  std::vector<double> rates;
  const Stopwatch whole;
  while (rates.size() < 3 || whole.seconds() < seconds) {
    Stopwatch one;
    env.kernels.gemm.forward(env.stream, a, b, c, Store::kAssign);
    rates.push_back(flop / one.seconds() / 1e9);
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace moe
