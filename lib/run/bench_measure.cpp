#include "lib/run/bench_measure.h"

#include <omp.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <numeric>
#include <system_error>

#include "lib/base/error.h"
#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/run/device_peak.h"
#include "lib/run/peak.h"

namespace moe {

double WaitClock::total_seconds() {
  double nanoseconds = 0;
  std::error_code error;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task", error)) {
    double running = 0, waiting = 0;
    std::ifstream(task.path() / "schedstat") >> running >> waiting;
    nanoseconds += waiting;
  }
  return 1e-9 * nanoseconds;
}

BenchRow measure(const BenchEntry& entry, double seconds, Stream& stream) {
  const double shortest = stream.is_cpu() ? 50e-6 : 5e-3;
  const BenchCase made = entry.make();
  int call = 0;
  const auto run = [&](int num_calls) {
    const Stopwatch clock;
    for (int i = 0; i < num_calls; ++i) made.run(call++);
    stream.synchronize();
    return clock.seconds() / num_calls;
  };
  stream.synchronize();
  run(1);  // warms up code and threads
  const int num_calls = std::max(1, static_cast<int>(std::ceil(shortest / std::max(run(1), 1e-9))));
  std::vector<double> times;
  const WaitClock wait(stream.num_threads());
  const Stopwatch whole;
  while (times.size() < 3 || whole.seconds() < seconds) times.push_back(run(num_calls));
  Timing timing = timing_of(std::move(times));
  timing.waited = wait.fraction();
  const RateUnit unit = made.unit == RateUnit::kGflops && !stream.is_cpu() ? RateUnit::kTflops : made.unit;
  return {entry.name, entry.shape, unit, made.work, made.num_sets, timing, made.error(), made.tolerance};
}

namespace {

// Sum of the words: vectors of integers, so that the check is exact. Each thread reads eight runs side by side: one alone
// does not keep enough lines on their way to fill the memory's bandwidth.
std::uint64_t sum_of(std::span<const std::uint64_t> words, int num_threads) {
  constexpr std::size_t kRuns = 8, kLine = 8;
  std::uint64_t total = 0;
#pragma omp parallel num_threads(num_threads) reduction(+ : total)
  {
    const auto t = static_cast<std::size_t>(omp_get_thread_num()), n = static_cast<std::size_t>(omp_get_num_threads());
    const std::size_t begin = words.size() * t / n, end = words.size() * (t + 1) / n;
    const std::size_t run = (end - begin) / kRuns / kLine * kLine;
    std::uint64_t sums[kRuns][kLine] = {};
    for (std::size_t i = 0; i < run; i += kLine)
      for (std::size_t r = 0; r < kRuns; ++r)
        for (std::size_t k = 0; k < kLine; ++k) sums[r][k] += words[begin + r * run + i + k];
    for (const auto& run_sums : sums) total = std::accumulate(std::begin(run_sums), std::end(run_sums), total);
    for (std::size_t i = begin + kRuns * run; i < end; ++i) total += words[i];
  }
  return total;
}

// Word i holds i: the sum is known.
void fill_with_numbers(std::span<std::uint64_t> words, int num_threads) {
  const auto n = static_cast<std::int64_t>(words.size());
#pragma omp parallel for num_threads(num_threads) schedule(static)
  for (std::int64_t i = 0; i < n; ++i) words[static_cast<std::size_t>(i)] = static_cast<std::uint64_t>(i);
}

void copy_words(std::span<const std::uint64_t> from, std::span<std::uint64_t> to, int num_threads) {
#pragma omp parallel num_threads(num_threads)
  {
    const auto t = static_cast<std::size_t>(omp_get_thread_num()), n = static_cast<std::size_t>(omp_get_num_threads());
    const std::size_t begin = from.size() * t / n, end = from.size() * (t + 1) / n;
    std::memcpy(&to[begin], &from[begin], (end - begin) * sizeof(std::uint64_t));
  }
}

// Median GB/s of five passes after one that is not counted.
template <class Pass>
double median_gbytes(std::size_t bytes, Pass pass) {
  pass();
  std::vector<double> seconds;
  for (int i = 0; i < 5; ++i) {
    const Stopwatch clock;
    pass();
    seconds.push_back(clock.seconds());
  }
  return static_cast<double>(bytes) / timing_of(std::move(seconds)).median * 1e-9;
}

}  // namespace

Peaks measure_bandwidth(const Stream& stream, std::size_t bytes) {
  const int threads = stream.num_threads();
  const std::size_t n = bytes / 2 / sizeof(std::uint64_t);
  Arena arena(bytes + 256);
  const auto from = arena.vector<std::uint64_t>(static_cast<std::int64_t>(n)),
             to = arena.vector<std::uint64_t>(static_cast<std::int64_t>(n));
  fill_with_numbers(from, threads);
  Peaks peaks;
  std::uint64_t total = 0;
  peaks.copy_gbytes = median_gbytes(2 * n * sizeof(std::uint64_t), [&] { copy_words(from, to, threads); });
  peaks.read_gbytes = median_gbytes(n * sizeof(std::uint64_t), [&] { total = sum_of(to, threads); });
  if (total != n * (n - 1) / 2) throw Error(Exit::kCheckFailed, "memory bandwidth: the copy is not what was copied");
  return peaks;
}

Peaks measure_peaks(Env env, DType dtype) {
  if (!env.stream.is_cpu()) return measure_device_peaks(env, dtype);
  Peaks peaks = measure_bandwidth(env.stream, std::size_t{512} << 20);
  peaks.register_gflops = env.kernels.register_peak_gflops(env.stream, dtype, 0.25);
  peaks.gemm_gflops = gemm_peak_gflops(env, dtype, 0.25);
  peaks.gemm_dtype = dtype;
  return peaks;
}

std::string processor_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0 && line.find(':') != std::string::npos) return line.substr(line.find(':') + 2);
  return "unknown processor";
}

std::vector<std::string> machine_lines(Env env, const Peaks& p) {
  char first[400], second[200];
  if (p.of_device) {
    std::snprintf(first, sizeof first, "# %s; moe %s", env.stream.device().name, version_text().c_str());
    std::snprintf(second, sizeof second, "# ceilings of this run on it: %s GEMM %d^3 %.1f TFLOP/s, copy %.1f GB/s",
                  name_of(p.gemm_dtype), p.gemm_n, 1e-3 * p.gemm_gflops, p.copy_gbytes);
    return {first, second};
  }
  std::snprintf(first, sizeof first, "# %s; %d threads; %s kernels; moe %s", processor_name().c_str(),
                env.stream.num_threads(), env.kernels.isa, version_text().c_str());
  std::snprintf(
      second, sizeof second,
      "# peaks of this run: in registers %.0f GFLOP/s, %s GEMM 1024^3 %.0f GFLOP/s, memory copy %.1f GB/s, read %.1f GB/s",
      p.register_gflops, name_of(p.gemm_dtype), p.gemm_gflops, p.copy_gbytes, p.read_gbytes);
  return {first, second};
}

nlohmann::json machine_json(Env env) {
  if (!env.stream.is_cpu())
    return {{"device", env.stream.device().name}, {"host", processor_name()}, {"isa", env.kernels.isa}};
  return {{"processor", processor_name()}, {"threads", env.stream.num_threads()}, {"isa", env.kernels.isa}};
}

}  // namespace moe
