#include "lib/run/bench_record.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/io/router_trace.h"

namespace moe {
namespace {

constexpr int kLeastSteps = 4;

void need(bool ok, const std::string& expected, const std::string& found) {
  if (!ok)
    throw Error(Exit::kUsage, "--record: expected " + expected + ", found " + found, "--workload W1, one group of ranks");
}

}  // namespace

void record_workload(const BenchOptions& o, const std::vector<DispatchJob>& jobs, const DispatchGroup& group,
                     const nlohmann::json& provenance) {
  need(jobs.size() == 1, "one workload", std::to_string(jobs.size()));
  need(group.shape.size() == group.shape.ep, "one group of ranks (--ep " + std::to_string(group.shape.size()) + ")",
       "groups of " + std::to_string(group.shape.ep));
  const RowSource& source = *jobs[0].source;
  for (int r = 0; r < source.num_ranks(); ++r)
    need(source.num_tokens(r) == source.num_tokens(0), "ranks with equally many tokens",
         std::to_string(source.num_tokens(0)) + " and " + std::to_string(source.num_tokens(r)));
  if (group.world.rank() != 0) return;
  const std::int64_t per_rank = source.num_tokens(0);
  RouterTraceWriter writer(o.record, {{std::max(0, jobs[0].layer)}, o.model.num_experts, o.model.top_k},
                           per_rank * source.num_ranks(), 0, o.common.force, per_rank);
  for (int step = 0; step < std::max(kLeastSteps, source.period()); ++step) {
    std::vector<std::int16_t> idx_TK;
    for (int r = 0; r < source.num_ranks(); ++r)
      for (const std::int32_t e : source.logical_route(r, step)) idx_TK.push_back(static_cast<std::int16_t>(e));
    writer.add_step(step + 1, idx_TK);
  }
  writer.finish(provenance);
}

}  // namespace moe
