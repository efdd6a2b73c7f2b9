// moe-bench dispatch --record: what a synthetic workload chooses, as a router trace, so that plans can be made for it and
// replayed. Not here: the workloads (bench_workload.h), the file (lib/io/router_trace.h).
#pragma once

#include "lib/run/bench_dispatch_run.h"

namespace moe {

// Rank 0 writes options.record: one layer, a step per repetition of the workload's period (4 at least), the ranks' tokens
// one after the other. Error(kUsage) unless one workload is measured whose ranks have equally many tokens, in one group.
void record_workload(const BenchOptions& options, const std::vector<DispatchJob>& jobs, const DispatchGroup& group,
                     const nlohmann::json& provenance);

}  // namespace moe
