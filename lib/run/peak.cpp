#include "lib/run/peak.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "lib/base/stopwatch.h"
#include "lib/run/bench_operands.h"
#include "lib/run/device_peak.h"

namespace moe {

double gemm_peak_gflops(Env env, DType dtype, double seconds) {
  if (!env.stream.is_cpu()) return measure_device_gemm(env, dtype, 4096).gflops;
  constexpr int n = 1024;
  Operands operands(4 * sizeof(float) * n * n, env.stream, dtype);  // never zeros: processors clock differently on them
  const Mat a = operands.matrix(n, n), b = operands.matrix(n, n), c = operands.matrix(n, n);
  std::vector<double> rates;
  const Stopwatch whole;
  while (rates.size() < 3 || whole.seconds() < seconds) {
    Stopwatch one;
    env.kernels.gemm.forward(env.stream, a, b, c, Store::kAssign);
    rates.push_back(2.0 * n * n * n / one.seconds() / 1e9);
  }
  std::sort(rates.begin(), rates.end());
  return rates[rates.size() / 2];
}

}  // namespace moe
