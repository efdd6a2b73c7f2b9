// `moe-bench dispatch` on recorded decisions (--replay) and with experts where a plan puts them (--plan). Not here: the
// measuring (bench_dispatch_run.h), synthetic workloads (bench_workload.h).
#pragma once

#include <string>
#include <vector>

#include "lib/io/plan_file.h"
#include "lib/io/router_trace.h"
#include "lib/run/bench_dispatch_run.h"
#include "lib/run/global_batch.h"

namespace moe {

// One layer of a trace: repetition i is the i-th recorded step. The sequences of the global batch lie on the ranks of the
// job as training without --micro-batch cuts them.
class TraceSource : public RowSource {
 public:
  // world_ranks: of the group's ranks in a job of num_ranks. The trace must outlive this.
  TraceSource(const RouterTrace& trace, std::size_t layer, std::vector<int> world_ranks, int num_ranks);

  std::string name() const override;
  std::string description() const override { return "replayed"; }
  int num_ranks() const override { return static_cast<int>(world_ranks_.size()); }
  std::int64_t num_tokens(int rank) const override;
  int period() const override { return static_cast<int>(trace_.step_S.size()); }
  std::vector<std::int32_t> route(int rank, int repetition) const override;

 private:
  BatchCut cut_of(int rank) const;

  const RouterTrace& trace_;
  std::size_t layer_;
  std::vector<int> world_ranks_;
  int num_ranks_;
};

// The choices of another source, taken to slots where experts have copies: what all that follows knows are slots.
class SlotSource : public RowSource {
 public:
  // choice_R: of each rank of the group.
  SlotSource(std::unique_ptr<RowSource> logical, std::vector<SlotChoice> choice_R, int top_k);

  std::string name() const override { return logical_->name(); }
  std::string description() const override { return logical_->description(); }
  int num_ranks() const override { return logical_->num_ranks(); }
  std::int64_t num_tokens(int rank) const override { return logical_->num_tokens(rank); }
  int period() const override { return logical_->period(); }
  std::vector<std::int32_t> route(int rank, int repetition) const override;
  std::vector<std::int32_t> logical_route(int rank, int repetition) const override {
    return logical_->route(rank, repetition);
  }

 private:
  std::unique_ptr<RowSource> logical_;
  std::vector<SlotChoice> choice_R_;
  int top_k_;
};

// What --replay and --plan name, read and made to fit each other and the ranks.
class DispatchInputs {
 public:
  explicit DispatchInputs(const BenchOptions& options);  // Error 66, 65
  // Experts and choices of a trace replace those of the options.
  void apply_to(BenchOptions& options) const;
  // "replay=DIGEST" and the like: what all ranks must have read alike.
  std::vector<std::string> facts() const;
  // Error 65: a plan of other experts or ranks, or without the layer.
  std::vector<DispatchJob> jobs(const BenchOptions& options, const DispatchGroup& group) const;
  // "" or how the nodes of the plan differ from those that are there.
  std::string node_warning(const DispatchGroup& group) const;

  bool replays() const { return trace_ != nullptr; }
  const RouterTrace& trace() const { return *trace_; }

 private:
  LayerPlacement placed_of(int layer, const BenchOptions& options, const DispatchGroup& group) const;
  // The rows of `source`, which names logical experts, with these lying as `placed` says.
  DispatchJob job_of(std::unique_ptr<RowSource> source, const LayerPlacement& placed, const BenchOptions& options,
                     const DispatchGroup& group) const;
  std::vector<DispatchJob> layer_jobs(const BenchOptions& options, const DispatchGroup& group) const;
  std::vector<DispatchJob> workload_jobs(const BenchOptions& options, const DispatchGroup& group) const;

  std::string trace_path_, plan_path_;
  std::unique_ptr<RouterTrace> trace_;
  std::unique_ptr<PlanFile> plan_;
};

}  // namespace moe
