// moe-bench as a library call: kernels, whole training steps, the exchange of rows, collectives; each figure with its check,
// unit and share of a peak. Every rank calls; the first one tells.
#pragma once

#include "lib/base/common_options.h"
#include "lib/base/error.h"
#include "lib/model/model.h"
#include "lib/run/compute.h"
#include "lib/run/mesh_options.h"

namespace moe {

enum class BenchCommand { kKernels, kStep, kDispatch, kCollectives, kCheckpoint, kReshard, kGenerate };
enum class BenchIsa { kAuto, kAmx, kAvx512, kAvx2, kGeneric };
enum class WorkloadChoice { kW0, kW1, kW2, kW3, kW4, kW5, kW6, kW7, kAll };  // the values of Workload, and all

struct BenchOptions {
  CommonOptions common;
  BenchCommand command = BenchCommand::kKernels;
  BenchIsa isa = BenchIsa::kAuto;
  std::string filter;
  double seconds = 0;  // 0: 0.3 for a row of kernels or collectives, 1 for one of dispatch, 5 for step
  std::string shape = "S";
  ModelConfig model;
  BalanceOptions balance;
  int batch = 8, micro_batch = 0, seq = 256;
  DType dtype = DType::kF32;
  Recompute recompute = Recompute::kNone;
  RankOptions ranks;
  WorkloadChoice workload = WorkloadChoice::kAll;
  int tokens = 1024;             // of a rank
  double link_gbits = 0;         // 0: unknown
  std::string replay;            // a router trace
  std::string record;            // a router trace to write
  int layer = -1;                // of the trace or the plan; -1: all of a trace, the first of a plan
  std::string batches = "1,16";  // of generate
  int prompt_tokens = 64, new_tokens = 32;
  std::int64_t min_bytes = 1024, max_bytes = std::int64_t{1} << 24;
  std::string directory = ".";                      // of the files
  std::string bytes = "1G";                         // of a checkpoint
  std::int64_t file_bytes = std::int64_t{1} << 30;  // the same as a number

  BatchShape batch_shape() const { return {batch, seq}; }  // of a step
};

Options bench_options(BenchOptions& bench);

// kCheckFailed if a result was wrong: its row says FAILED. Throws Error(kUsage, kUnavailable).
Exit bench(const BenchOptions& options, const Invocation& invocation, World& world);

std::vector<int> batch_list(const BenchOptions& options);  // of --batches; Error(kUsage)

// The commands. Env: kernels and threads as asked for.
Exit bench_kernels(const BenchOptions& options, Env env);
Exit bench_step(const BenchOptions& options, const Compute& compute);  // one process
// On ranks; way: choose_gpu_comm()'s.
Exit bench_mesh_step(const BenchOptions& options, World& world, const Compute& compute, GpuComm way);
// provenance: of a file that --record writes.
Exit bench_dispatch(const BenchOptions& options, World& world, const Compute& compute, GpuComm way,
                    const nlohmann::json& provenance);
Exit bench_collectives(const BenchOptions& options, World& world, const Compute& compute, GpuComm way);
Exit bench_checkpoint(const BenchOptions& options);                                           // one process
Exit bench_reshard(const BenchOptions& options, const Invocation& invocation, World& world);  // one process

Exit bench_generate(const BenchOptions& options, const Compute& compute);  // one process

// Tables go to stdout, or to stderr when the JSON has stdout.
std::FILE* table_file(const BenchOptions& options);

}  // namespace moe
