#include "lib/run/bench_table.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/provenance.h"
#include "lib/io/files.h"

namespace moe {

Timing timing_of(std::vector<double> seconds) {
  if (seconds.empty()) return {};
  std::sort(seconds.begin(), seconds.end());
  const std::size_t n = seconds.size();
  const double median = n % 2 == 1 ? seconds[n / 2] : (seconds[n / 2 - 1] + seconds[n / 2]) / 2;
  return {median, seconds.front(), seconds.back(), static_cast<int>(n), 0};
}

void WorstDeviation::add(double got, double want, double scale) {
  if (std::isnan(worst_) || got == want) return;
  const double deviation = std::fabs(got - want) / scale;
  if (!(deviation <= worst_)) worst_ = deviation;
}

const char* name_of(RateUnit unit) {
  static constexpr const char* kNames[] = {"GFLOP/s", "TFLOP/s", "GB/s"};
  return kNames[static_cast<int>(unit)];
}

double BenchRow::percent_of_peak(const Peaks& peaks) const {
  return 100e-9 * work / seconds.median / (unit == RateUnit::kGbytes ? peaks.copy_gbytes : peaks.gflops());
}

std::string row_header() {
  char text[160];
  std::snprintf(text, sizeof text, "%-40s %-22s %4s %6s %10s %5s %8s %-7s %6s %8s", "# name", "shape", "sets", "reps", "us",
                "wait%", "rate", "unit", "%peak", "error");
  return text;
}

std::vector<std::string> row_legend(bool of_device) {
  std::vector<std::string> lines = {
      "# sets    operand sets that the calls cycle through: 1 stays in the caches if it fits; more are at most 32 and at "
      "most",
      "#         64 MiB together: cold in L2 where that is more than L2, and maybe in L3; all data is random",
      "# us      median time of one call over reps repetitions (JSON: also smallest and largest)",
      "# wait%   of the time threads could run but had no processor: above a few % others use it, and the rate is low",
      "# rate    work / us; GFLOP/s counts 2 per multiply-add, GB/s counts each operand element once per reading or writing",
      "# %peak   of the register peak for GFLOP/s, of the copy bandwidth for GB/s (above 100 %: from a cache)",
      "# error   largest deviation from a reference in double on sampled elements, relative to the terms of their sums;",
      "#         FAILED instead of a rate: the result was wrong"};
  if (!of_device) return lines;
  lines[0] =
      "# sets    operand sets that the calls cycle through, 256 MiB together, at most 32: more than caches hold; all data";
  lines[1] = "#         is random";
  lines[2] = "# us      median time of one call over reps repetitions; enough calls between two waits to last 5 ms";
  lines[5] = "# %peak   of the GEMM of this run for TFLOP/s, of its copy for GB/s (above 100 %: from a cache)";
  return lines;
}

std::string row_line(const BenchRow& r, const Peaks& peaks) {
  char rate[64], text[260];
  if (r.passed())
    std::snprintf(rate, sizeof rate, "%8.1f %-7s %6.1f", r.rate(), name_of(r.unit), r.percent_of_peak(peaks));
  else
    std::snprintf(rate, sizeof rate, "%8s %-7s %6s", "FAILED", name_of(r.unit), "-");
  std::snprintf(text, sizeof text, "%-40s %-22s %4d %6d %10.1f %5.1f %s %8.1e", r.name.c_str(), r.shape.c_str(), r.num_sets,
                r.seconds.num_repetitions, 1e6 * r.seconds.median, 100 * r.seconds.waited, rate, r.error);
  return text;
}

nlohmann::json bench_json(const std::string& command) {
  return {{"kind", "moe-bench " + command},
          {"schema_version", kBenchSchemaVersion},
          {"version", version_text()},
          {"time", utc_now()}};
}

nlohmann::json timing_json(const Timing& t) {
  return {{"median", 1e6 * t.median},
          {"min", 1e6 * t.min},
          {"max", 1e6 * t.max},
          {"repetitions", t.num_repetitions},
          {"waited_fraction", t.waited}};
}

nlohmann::json row_json(const BenchRow& r, const Peaks& peaks) {
  nlohmann::json row = {{"name", r.name},
                        {"shape", r.shape},
                        {"work", r.work},
                        {"unit", name_of(r.unit)},
                        {"operand_sets", r.num_sets},
                        {"us", timing_json(r.seconds)},
                        {"error", std::isfinite(r.error) ? nlohmann::json(r.error) : nlohmann::json(nullptr)},
                        {"tolerance", r.tolerance},
                        {"passed", r.passed()}};
  if (!r.passed()) return row;
  row["rate"] = r.rate();
  row["percent_of_peak"] = r.percent_of_peak(peaks);
  return row;
}

nlohmann::json peaks_json(const Peaks& p) {
  return {{"register_gflops", p.register_gflops}, {"gemm_gflops", p.gemm_gflops}, {"read_gbytes_per_s", p.read_gbytes},
          {"copy_gbytes_per_s", p.copy_gbytes},   {"gemm_size", p.gemm_n},        {"gemm_dtype", name_of(p.gemm_dtype)}};
}

}  // namespace moe
