// How moe-bench measures: calls that cycle through several sets of operands, repetitions, and the peaks of the machine or
// its device. Not here: the operands (bench_operands.h), which kernels (bench_gemm.cpp, ...), what is printed
// (bench_table.h).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "lib/base/stopwatch.h"
#include "lib/run/bench_operands.h"
#include "lib/run/bench_table.h"

namespace moe {

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

// Repetitions of one call, or of enough calls to last 50 microseconds, for `seconds`, at least three; then the check. On
// another device enough calls for 5 milliseconds, between two waits for its stream: nothing waits between the calls.
BenchRow measure(const BenchEntry& entry, double seconds, Stream& stream);

// The peaks of this machine with env's threads and kernels, or of env's device: its copy, and our product of matrices of
// `dtype`; about a second. Throws Error(kCheckFailed) if memory lies.
Peaks measure_peaks(Env env, DType dtype);
// Streaming passes over `bytes` in all, large pages; only the two bandwidths of the result are set.
Peaks measure_bandwidth(const Stream& stream, std::size_t bytes);
std::string processor_name();

// Lines with # at the head of a table.
std::vector<std::string> machine_lines(Env env, const Peaks& peaks);
nlohmann::json machine_json(Env env);

}  // namespace moe
