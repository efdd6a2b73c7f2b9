#include "lib/run/device_peak.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/stopwatch.h"
#include "lib/run/bench_operands.h"

namespace moe {
namespace {

// Median seconds of a call over nine repetitions, each long enough that starting calls does not count.
double median_seconds(Stream& stream, const std::function<void()>& call) {
  constexpr double kShortest = 10e-3;
  const auto run = [&](int n) {
    const Stopwatch clock;
    for (int i = 0; i < n; ++i) call();
    stream.synchronize();
    return clock.seconds() / n;
  };
  const int n = std::max(1, static_cast<int>(std::ceil(kShortest / std::max(run(1), 1e-9))));
  std::vector<double> seconds(9);
  for (double& s : seconds) s = run(n);
  return timing_of(std::move(seconds)).median;
}

// Seconds of the second call: the first loads code.
double warm_seconds(Stream& stream, const std::function<void()>& call) {
  call();
  stream.synchronize();
  const Stopwatch clock;
  call();
  stream.synchronize();
  return clock.seconds();
}

// GFLOP/s of n^3, 0 where a larger one follows; whether one call is so slow that a larger one makes no sense.
double gemm_gflops(Env env, DType dtype, int n, bool is_last, bool& is_slow) {
  constexpr double kSlow = 20e-3;
  struct Set {
    Mat a, b, c;
  };
  const Sets<Set> sets(env.stream, dtype, true, [n](Operands& o) {
    return Set{o.matrix(n, n), o.matrix(n, n), o.matrix(n, n)};
  });
  const Set& s = sets.front();
  const auto call = [&] { env.kernels.gemm.forward(env.stream, s.a, s.b, s.c, Store::kAssign); };
  is_slow = warm_seconds(env.stream, call) > kSlow;
  return is_slow || is_last ? 2.0 * n * n * n / median_seconds(env.stream, call) * 1e-9 : 0;
}

// GB/s of a copy of `bytes`, read and written; judged at both ends.
double copy_gbytes(Stream& stream, std::size_t bytes, bool& is_slow) {
  constexpr double kSlow = 0.4e-3;
  const auto n = static_cast<std::int64_t>(bytes / sizeof(float));
  struct Set {
    std::span<float> from, to;
  };
  const Sets<Set> sets(stream, DType::kF32, true, [n](Operands& o) { return Set{o.floats(n), o.floats(n)}; });
  const Set& s = sets.front();
  const auto call = [&] { stream.copy(s.to.data(), s.from.data(), bytes); };
  is_slow = warm_seconds(stream, call) > kSlow;
  const double rate = 2.0 * static_cast<double>(bytes) / median_seconds(stream, call) * 1e-9;
  for (const std::size_t at : {std::size_t{0}, s.to.size() - 1}) {
    float want = 0, got = 1;
    stream.copy(&want, &s.from[at], sizeof want);
    stream.copy(&got, &s.to[at], sizeof got);
    stream.synchronize();
    if (!(got == want)) throw Error(Exit::kCheckFailed, "memory bandwidth: the copy is not what was copied");
  }
  return rate;
}

}  // namespace

DeviceGemm measure_device_gemm(Env env, DType dtype, int largest) {
  constexpr int kFirst = 64;
  bool is_slow = false;
  for (int n = kFirst;; n *= 2)
    if (const double rate = gemm_gflops(env, dtype, n, n >= largest, is_slow); is_slow || n >= largest) return {rate, n};
}

double measure_device_copy(Stream& stream) {
  constexpr std::size_t kFirstBytes = std::size_t{1} << 20, kMostBytes = std::size_t{1} << 30;
  std::size_t used = 0, total = 0;
  stream.device().memory(&used, &total);
  const std::size_t most = std::min(kMostBytes, (total - used) / 8);
  double gbytes = 0;
  bool is_slow = false;
  for (std::size_t bytes = kFirstBytes; !is_slow && bytes <= std::max(most, kFirstBytes); bytes *= 2)
    gbytes = copy_gbytes(stream, bytes, is_slow);
  return gbytes;
}

Peaks measure_device_peaks(Env env, DType dtype) {
  const DeviceGemm gemm = measure_device_gemm(env, dtype, 8192);
  Peaks peaks{.of_device = true, .gemm_n = gemm.n, .gemm_dtype = dtype};
  peaks.gemm_gflops = gemm.gflops;
  peaks.copy_gbytes = measure_device_copy(env.stream);
  return peaks;
}

}  // namespace moe
