// moe-bench as a library call: kernels, or whole training steps, each figure with its check, unit and share of a peak.
#pragma once

#include "lib/base/common_options.h"
#include "lib/base/error.h"
#include "lib/model/model.h"

namespace moe {

enum class BenchCommand { kKernels, kStep };
enum class BenchIsa { kAuto, kAvx512, kAvx2, kGeneric };

struct BenchOptions {
  CommonOptions common;
  BenchCommand command = BenchCommand::kKernels;
  BenchIsa isa = BenchIsa::kAuto;
  std::string filter;
  double seconds = 0;  // 0: 0.3 for a row of kernels, 5 for step
  std::string shape = "S";
  ModelConfig model;
  BalanceOptions balance;
  int batch = 8, seq = 256;
  DType dtype = DType::kF32;
  Recompute recompute = Recompute::kNone;

  BatchShape batch_shape() const { return {batch, seq}; }
};

Options bench_options(BenchOptions& bench);

// kCheckFailed if a result was wrong: its row says FAILED. Throws Error(kUsage, kUnavailable).
Exit bench(const BenchOptions& options, const Invocation& invocation);

// The two commands. Env: kernels and threads as asked for.
Exit bench_kernels(const BenchOptions& options, Env env);
Exit bench_step(const BenchOptions& options, const Kernels& kernels);

// Tables go to stdout, or to stderr when the JSON has stdout.
std::FILE* table_file(const BenchOptions& options);

}  // namespace moe
