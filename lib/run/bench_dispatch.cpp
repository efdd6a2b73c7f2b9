// `moe-bench dispatch`: which measurements are made, by which ways of exchange, and what is told of them. Not here: the
// measuring (bench_dispatch_run.h), the report (bench_dispatch_report.cpp), who sends what (bench_workload.h,
// bench_replay.h).
#include "lib/run/bench_dispatch.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/bench_record.h"
#include "lib/run/bench_replay.h"
#include "lib/run/result.h"

namespace moe {
namespace {

// All ranks are one group, unless somebody wants it otherwise.
MeshShape shape_of(const BenchOptions& o, const World& world) {
  MeshShape wanted{o.ranks.replicate, o.ranks.shard, o.ranks.ep};
  if (wanted.replicate == 0 && wanted.shard == 0 && wanted.ep == 0) wanted.ep = world.size();
  return infer_mesh(world.size(), wanted, o.model.num_experts, world.ranks_per_node());
}

// Both where they differ, if nobody chose.
std::vector<DispatchMode> modes_of(const BenchOptions& o, DispatchGroup& group, DeviceLink& link) {
  if (o.ranks.dispatch != DispatchMode::kAuto) return {o.ranks.dispatch};
  const auto& [stream, kernels] = link.env();
  const Dispatcher chooses(link.host(), group.rank2node, linear_expert_map(o.model.num_experts, group.shape.ep),
                           DispatchMode::kAuto, stream, kernels);
  std::int64_t two_level = chooses.mode() == DispatchMode::kTwoLevel;  // groups may differ
  sum_over_ranks(group.world, std::span(&two_level, 1));
  return two_level > 0 ? std::vector{DispatchMode::kFlat, DispatchMode::kTwoLevel} : std::vector{DispatchMode::kFlat};
}

std::vector<std::string> head_lines(const BenchOptions& o, const DispatchGroup& group, const DispatchInputs& in,
                                    const std::string& link) {
  const std::string limit =
      o.model.max_nodes_per_token > 0 ? ", at most " + std::to_string(o.model.max_nodes_per_token) + " nodes a token" : "";
  const std::string tokens = in.replays()
                                 ? std::to_string(in.trace().step_S.size()) + " steps of " +
                                       std::to_string(in.trace().tokens_per_step) + " tokens of all ranks (" + o.replay + ")"
                                 : std::to_string(o.tokens) + " tokens a rank";
  std::vector<std::string> lines = {"# moe-bench dispatch: " + ranks_text(group.world) + ", groups of " +
                                        std::to_string(group.shape.ep) + "; moe " + version_text(),
                                    format_text("# %s, d %d, %d experts top-%d, %s%s", tokens.c_str(), o.model.d_model,
                                                o.model.num_experts, o.model.top_k, name_of(o.dtype), limit.c_str())};
  if (!o.ranks.plan.empty()) lines.push_back("# experts as " + o.ranks.plan + " places them");
  if (!link.empty()) {
    lines.push_back("# rows in memory of " + link + "; times end when the stream is done;");
    lines.push_back("# counts, ids and gates of the host, over MPI, as in training");
  }
  return lines;
}

nlohmann::json run_json(const BenchOptions& o, const DispatchGroup& group, const DispatchInputs& in) {
  nlohmann::json json = bench_json("dispatch");
  json.update({{"machine", ranks_json(group.world)},
               {"ep", group.shape.ep},
               {"d_model", o.model.d_model},
               {"experts", o.model.num_experts},
               {"top_k", o.model.top_k},
               {"dtype", name_of(o.dtype)},
               {"row_bytes", static_cast<std::int64_t>(size_of(o.dtype)) * o.model.d_model},
               {"max_nodes_per_token", o.model.max_nodes_per_token},
               {"link_gbits", o.link_gbits}});
  if (!o.ranks.plan.empty()) {
    json["plan"] = o.ranks.plan;
    json["replica_choice"] = o.ranks.replica_choice == ReplicaChoice::kSpread ? "spread" : "nearest";
  }
  if (!in.replays())
    json["tokens_per_rank"] = o.tokens;
  else
    json["replay"] = {{"file", o.replay},
                      {"digest", in.trace().digest},
                      {"steps", in.trace().step_S},
                      {"tokens_per_step", in.trace().tokens_per_step}};
  return json;
}

// The measurements of one kind of run, as they become known.
class DispatchReport {
 public:
  DispatchReport(const BenchOptions& o, const World& world, std::FILE* out) : o_(o), world_(world), out_(out) {}

  // By each way of exchange.
  void add(const std::vector<DispatchRow>& measured) {
    by_mode_.resize(measured.size());
    for (std::size_t m = 0; m < measured.size(); ++m) by_mode_[m].push_back(measured[m]);
    for (const DispatchRow& row : measured) {
      rows_.push_back(dispatch_json(row, o_.link_gbits));
      passed_ = passed_ && row.passed();
    }
    for (const std::string& line : histogram_lines(measured[0])) notes_.push_back(line);
    if (measured.size() < 2 || !measured[0].passed() || !measured[1].passed()) return;
    notes_.push_back(comparison_line(measured[0], measured[1]));
    pairs_.push_back(comparison_json(measured[0], measured[1]));
  }

  Exit finish(nlohmann::json json, bool with_totals) {
    print_lines(world_, out_, notes_);
    if (with_totals && passed_)
      for (const auto& layers : by_mode_) {
        print_lines(world_, out_, {total_line(layers)});
        json["totals"].push_back(total_json(layers));
      }
    json["rows"] = rows_;
    json["flat_over_two_level"] = pairs_;
    json["passed"] = passed_;
    if (world_.rank() == 0) write_result_json(o_.common.json, json);
    return passed_ ? Exit::kOk : Exit::kCheckFailed;
  }

 private:
  const BenchOptions& o_;
  const World& world_;
  std::FILE* out_;
  std::vector<std::vector<DispatchRow>> by_mode_;
  nlohmann::json rows_ = nlohmann::json::array(), pairs_ = nlohmann::json::array();
  std::vector<std::string> notes_;
  bool passed_ = true;
};

}  // namespace

Exit bench_dispatch(const BenchOptions& options, World& world, const Compute& compute, GpuComm way,
                    const nlohmann::json& provenance) {
  BenchOptions o = options;
  std::FILE* out = table_file(o);
  std::unique_ptr<DispatchInputs> in;
  MeshShape shape;
  world.agree([&] {
    in = std::make_unique<DispatchInputs>(o);
    in->apply_to(o);
    shape = shape_of(o, world);
  });
  if (!world.alone()) world.require_same(in->facts());
  DispatchGroup group(world, shape);
  std::vector<DispatchJob> jobs;
  world.agree([&] { jobs = in->jobs(o, group); });
  if (const std::string warning = in->node_warning(group); !warning.empty() && world.rank() == 0) log_warning(warning);
  print_lines(world, out, head_lines(o, group, *in, link_text(compute.device, way)));
  if (o.common.dry_run) return Exit::kOk;
  print_lines(world, out, dispatch_legend(o.link_gbits));
  print_lines(world, out, {dispatch_header()});
  if (!o.record.empty()) world.agree([&] { record_workload(o, jobs, group, provenance); });
  DeviceLink sender(world, *group.comm, compute, way);
  const std::vector<DispatchMode> modes = modes_of(o, group, sender);
  DispatchReport report(o, world, out);
  for (const DispatchJob& job : jobs) {
    std::vector<DispatchRow> measured;
    for (const DispatchMode mode : modes) {
      measured.push_back(measure_dispatch(o, group, job, mode, sender, o.seconds > 0 ? o.seconds : 1));
      print_lines(world, out, {dispatch_line(measured.back(), o.link_gbits)});
    }
    report.add(measured);
  }
  nlohmann::json json = run_json(o, group, *in);
  json["machine"].update(link_json(compute.device, way));
  return report.finish(std::move(json), in->replays());
}

}  // namespace moe
