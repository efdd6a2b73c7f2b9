// What `moe-bench step` measured, and how it is told. Not here: the running (bench_step.cpp).
#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/run/bench_table.h"
#include "lib/run/kernel_clock.h"

namespace moe {

struct StepSample {
  double seconds = 0;
  std::array<double, kNumStepPhases> phase_seconds{};  // kBackwardInput: the whole backward pass
  StepTimes parts;
};

// A check of the run: the value found and the range it must lie in; not-a-number lies in none.
struct StepCheck {
  std::string name;
  double found = 0, low = 0, high = 0;
  bool passed() const { return found >= low && found <= high; }
};

struct StepReport {
  ModelConfig model;
  BatchShape shape;           // of a step ...
  int num_micro_batches = 1;  // ... which goes through in so many
  Peaks peaks;
  double gemm_peak_after = 0;  // measured again after the steps
  double peak_rss_bytes = 0, device_bytes = 0, max_vio = 0;
  Timing seconds;
  StepSample median;  // the step whose time is the median; on a device: one more, with marks around every kernel
  std::array<double, kNumStepPhases> phase_seconds{};  // of the step whose time is the median, on a device too
  std::vector<StepCheck> checks;

  bool passed() const;
  double gemm_peak() const;  // the larger of the two
  double tokens_per_second() const;
  // Model FLOP: 6 per active parameter and token, and attention, causal (pairs j <= i) or full (12 L D seq).
  double gflops(bool causal) const;
  double other_seconds() const { return median.seconds - median.parts.total(); }
};

// Model FLOP of a step by part, attention counted causally; 0 for what is no product.
std::array<double, kNumStepParts> flop_by_part(const ModelConfig& config, const BatchShape& shape);

// Mean loss that untrained weights must give on random targets: ln V and half the variance of the logits.
double expected_first_loss(const ModelConfig& config);

nlohmann::json checks_json(const std::vector<StepCheck>& checks);  // an array
// The table, without the machine's lines: parts, totals, checks.
std::vector<std::string> step_lines(const StepReport& report);
nlohmann::json step_json(const StepReport& report);

}  // namespace moe
