// What moe-bench prints: the statistics of a row, its line in the table, its object in the JSON. A figure is never shown
// without its unit, its share of a peak measured in the same run, and its check; a row whose check fails says FAILED.
// Not here: what is measured (bench_gemm.cpp, bench_ops.cpp, bench_step.cpp) and how (bench_measure.h).
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "kernels/view.h"

namespace moe {

inline constexpr int kBenchSchemaVersion = 1;

// Seconds of one call over several repetitions.
struct Timing {
  double median = 0, min = 0, max = 0;
  int num_repetitions = 0;
  double waited = 0;  // part of the time in which threads could run but had no processor
};
// Median of an even number: the mean of the two in the middle. No repetition: all 0.
Timing timing_of(std::vector<double> seconds);

// The largest error so far; not-a-number stays.
class WorstDeviation {
 public:
  // |got - want| / scale. A scale of 0 asks for equality.
  void add(double got, double want, double scale);
  double value() const { return worst_; }

 private:
  double worst_ = 0;
};

// What this machine reached in this run.
struct Peaks {
  double register_gflops = 0;  // multiply-adds in registers
  double gemm_gflops = 0;      // our own product of gemm_n^3 in gemm_dtype
  double read_gbytes = 0;      // streaming read
  double copy_gbytes = 0;      // streaming copy, bytes read and bytes written both counted
  // Of a device other than the host: no register peak.
  bool of_device = false;
  int gemm_n = 1024;
  DType gemm_dtype = DType::kF32;

  double gflops() const { return of_device ? gemm_gflops : register_gflops; }  // what percentages refer to
};

enum class RateUnit : std::uint8_t { kGflops, kTflops, kGbytes };
const char* name_of(RateUnit unit);

struct BenchRow {
  std::string name, shape;
  RateUnit unit = RateUnit::kGflops;
  double work = 0;   // floating-point operations, or bytes, of one call
  int num_sets = 1;  // operand sets that the calls cycle through
  Timing seconds;
  double error = 0, tolerance = 0;  // against a reference in double

  bool passed() const { return error <= tolerance; }  // false for not-a-number
  double rate() const { return work / seconds.median * (unit == RateUnit::kTflops ? 1e-12 : 1e-9); }
  // Of the register peak (of a device: the GEMM peak), or of the copy bandwidth.
  double percent_of_peak(const Peaks& peaks) const;
};

// The line of column names that fits row_line, and the lines with # that explain each column.
std::string row_header();
std::vector<std::string> row_legend(bool of_device = false);
std::string row_line(const BenchRow& row, const Peaks& peaks);

nlohmann::json bench_json(const std::string& command);             // how every result begins: what, version, time
nlohmann::json timing_json(const Timing& timing);                  // in microseconds
nlohmann::json row_json(const BenchRow& row, const Peaks& peaks);  // no rate where the check failed
nlohmann::json peaks_json(const Peaks& peaks);

}  // namespace moe
