// What a run tells: one JSON object a step (metrics.jsonl, man/moe-files.5), one line a step on the log.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "lib/io/files.h"
#include "lib/run/trainer.h"

namespace moe {

// What turns a step's result into rates.
struct RateBase {
  double flop_per_token = 0, gemm_peak_gflops = 0;
  int seq = 0;  // tokens of a sequence
};

std::int64_t tokens_of(const StepResult& r, const RateBase& base);  // of this step

double tokens_per_second(const StepResult& r, const RateBase& base);
double gflops(const StepResult& r, const RateBase& base);
double mean_max_vio(const StepResult& r);  // over the MoE layers

nlohmann::json metrics_row(const StepResult& r, const RateBase& base, double run_seconds);
// "step   120/2000  loss 2.3412  grad 0.84  lr 3.0e-03   61.2 ms  33463 tok/s  246 GF/s  72 %  imb 0.21"
std::string step_line(const StepResult& r, const RateBase& base, std::int64_t last_step);

// Appends rows to DIR/metrics.jsonl, row by row. A disk that is full for a while stops no training: rows that cannot be
// written are told of once, wait in memory, and follow when it goes on.
class MetricsFile {
 public:
  // Starts anew; or, resuming at `step`, drops the rows after it and adds a marker row {"event": "resume"}.
  MetricsFile(const std::string& path, std::int64_t resumed_step, bool resumed);
  ~MetricsFile();  // tries what waits once more, and says what is lost
  MetricsFile(const MetricsFile&) = delete;
  MetricsFile& operator=(const MetricsFile&) = delete;
  void write(const nlohmann::json& row);  // Error(kIo) when 64 MiB wait

 private:
  bool flush();

  std::optional<File> file_;
  std::int64_t end_ = 0;  // of what is there for sure
  std::string waiting_, failure_;
};

// Rows of an earlier run, for the picture; lines that are no JSON are passed over.
std::vector<nlohmann::json> read_metrics(const std::string& path);

}  // namespace moe
