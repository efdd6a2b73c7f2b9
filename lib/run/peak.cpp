#include "lib/run/peak.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"

namespace moe {

double gemm_peak_gflops(Env env, int n, double seconds) {
  const std::size_t size = static_cast<std::size_t>(n) * static_cast<std::size_t>(n);
  Arena arena(3 * sizeof(float) * size + 4096, env.stream.device());
  const Mat a = arena.matrix(DType::kF32, n, n), b = arena.matrix(DType::kF32, n, n), c = arena.matrix(DType::kF32, n, n);
  const Rng rng(1, "gemm peak");  // never on zeros: processors clock differently on them
  std::vector<float> values(size);
  for (std::size_t i = 0; i < size; ++i) values[i] = static_cast<float>(rng.uniform(i) - 0.5);
  env.stream.copy(a.data, values.data(), size * sizeof(float));
  for (float& v : values) v += 0.25f;
  env.stream.copy(b.data, values.data(), size * sizeof(float));
  const double flop = 2.0 * n * n * static_cast<double>(n);
  std::vector<double> rates;
  const Stopwatch whole;
  while (rates.size() < 3 || whole.seconds() < seconds) {
    Stopwatch one;
    env.kernels.gemm.forward(env.stream, a, b, c, Store::kAssign);
    env.stream.synchronize();
    rates.push_back(flop / one.seconds() / 1e9);
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace moe
