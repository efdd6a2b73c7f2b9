// How moe-bench measures: random operands in one arena, calls that cycle through several sets of them, repetitions, and
// the peaks of the machine. Not here: which kernels (bench_gemm.cpp, bench_ops.cpp), what is printed (bench_table.h).
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/model/block.h"
#include "lib/run/bench_table.h"

namespace moe {

// Operands, filled with random values (never zeros: processors clock and predict differently on them), outputs too: their
// pages must have been touched. Made with capacity 0 it only counts, as Arena does.
class Operands {
 public:
  explicit Operands(std::size_t capacity_bytes) : arena_(capacity_bytes), rng_(1, "bench operands") {}

  std::span<float> floats(std::int64_t n, float low = -1, float high = 1);
  Mat matrix(std::int64_t rows, std::int64_t cols) { return mat(floats(rows * cols).data(), rows, cols); }
  std::span<std::int32_t> ints(std::int64_t n, std::int64_t end);  // in [0, end)
  template <class T>
  std::span<T> raw(std::int64_t n) {
    return arena_.vector<T>(n);
  }
  bool measuring() const { return arena_.measuring(); }
  std::size_t used_bytes() const { return arena_.used_bytes(); }

 private:
  Arena arena_;
  Rng rng_;
  std::uint64_t next_ = 0;
};

inline constexpr std::size_t kCycleBytes = std::size_t{64} << 20;
inline constexpr int kMaxSets = 32;

// Equal sets of operands and the memory they lie in.
template <class Set>
struct Sets {
  std::unique_ptr<Operands> memory;
  std::vector<Set> sets;
  Set& of(int call) { return sets[static_cast<std::size_t>(call) % sets.size()]; }
};

// take(Operands&) -> Set. `warm`: one set, which stays in the caches if it fits.
template <class Take>
auto take_sets(bool warm, Take take) {
  Operands counting(0);
  take(counting);
  const std::size_t bytes = counting.used_bytes();
  const std::size_t n = warm ? 1 : std::min<std::size_t>(std::max<std::size_t>(kCycleBytes / bytes, 1), kMaxSets);
  auto all = std::make_shared<Sets<decltype(take(counting))>>();
  all->memory = std::make_unique<Operands>(n * bytes);
  for (std::size_t i = 0; i < n; ++i) all->sets.push_back(take(*all->memory));
  return all;
}

// A row that can be measured.
struct BenchCase {
  RateUnit unit = RateUnit::kGflops;
  double work = 0;
  double tolerance = 0;
  int num_sets = 1;
  std::function<void(int call)> run;
  std::function<double()> error;  // of one more call, see BenchRow::error
};
struct BenchEntry {
  std::string name, shape;
  std::function<BenchCase()> make;  // takes the memory
};

// How long the threads of this process could run but had no processor, since the making of the clock, as a
// part of their time. The kernel counts it (schedstat); where it does not, the fraction is 0.
class WaitClock {
 public:
  explicit WaitClock(int num_threads) : num_threads_(num_threads), start_(total_seconds()) {}
  double fraction() const { return (total_seconds() - start_) / (clock_.seconds() * num_threads_); }

 private:
  static double total_seconds();
  int num_threads_;
  double start_;
  Stopwatch clock_;
};

// Repetitions of one call, or of enough calls to last 50 microseconds, for `seconds`, at least three; then the check.
BenchRow measure(const BenchEntry& entry, double seconds, int num_threads);

// The peaks of this machine with env's threads and kernels; about a second. Throws Error(kCheckFailed) if memory lies.
Peaks measure_peaks(Env env);
// Streaming passes over `bytes` in all, large pages; only the two bandwidths of the result are set.
Peaks measure_bandwidth(const Stream& stream, std::size_t bytes);
std::string processor_name();

// Lines with # at the head of a table.
std::vector<std::string> machine_lines(Env env, const Peaks& peaks);
nlohmann::json machine_json(Env env);

}  // namespace moe
