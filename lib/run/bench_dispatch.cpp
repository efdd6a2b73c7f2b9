// `moe-bench dispatch`: rows to experts that hand them back, and home again. Not here: the report
// (bench_dispatch_report.cpp), who sends what (bench_workload.h), what must arrive (bench_dispatch_check.h).
#include "lib/run/bench_dispatch.h"

#include <algorithm>
#include <memory>

#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/mesh.h"
#include "lib/run/bench.h"
#include "lib/run/bench_dispatch_check.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/result.h"

namespace moe {
namespace {

// Packed rows that stay where they are while they grow no further.
struct Rows {
  std::vector<std::byte> bytes;
  Mat of(DType dtype, std::int64_t n, std::int64_t cols) {
    bytes.resize(std::max(bytes.size(), static_cast<std::size_t>(n * cols) * size_of(dtype)));
    return {bytes.data(), dtype, n, cols, cols};
  }
};

// The groups of ranks that exchange rows among themselves, as this rank sees them.
struct DispatchGroup {
  DispatchGroup(const BenchOptions& o, World& w, const MeshShape& mesh)
      : world(w),
        shape(mesh),
        place(place_of(mesh, w.rank())),
        number(place.replicate * shape.shard + place.shard),
        map(linear_expert_map(o.model.num_experts, shape.ep)) {
    world.lane().call("split", [this] { comm = world.comm().split(number, place.ep); });
    for (MeshPlace p{place.replicate, place.shard, 0}; p.ep < shape.ep; ++p.ep)
      rank2node.push_back(world.rank2node()[static_cast<std::size_t>(rank_of(shape, p))]);
  }

  World& world;
  MeshShape shape;
  MeshPlace place;
  int number = 0;
  ExpertMap map;
  std::unique_ptr<Comm> comm;
  std::vector<int> rank2node;
};

// All ranks are one group, unless somebody wants it otherwise.
MeshShape shape_of(const BenchOptions& o, const World& world) {
  MeshShape wanted{o.ranks.replicate, o.ranks.shard, o.ranks.ep};
  if (wanted.replicate == 0 && wanted.shard == 0 && wanted.ep == 0) wanted.ep = world.size();
  return infer_mesh(world.size(), wanted, o.model.num_experts, world.ranks_per_node());
}

WorkloadShape workload_shape(const BenchOptions& o, const DispatchGroup& group) {
  return {.num_tokens = o.tokens,
          .top_k = o.model.top_k,
          .max_nodes = o.model.max_nodes_per_token,
          .seed = o.common.seed,
          .group = group.number,
          .map = group.map,
          .rank2node = group.rank2node};
}

RowCode code_of(const BenchOptions& o, const DispatchGroup& group, const WorkloadSource& source) {
  return {o.dtype, 2 * o.model.top_k, o.model.d_model, group.shape.ep * source.most_tokens()};
}

// One workload by one way of exchange, on this rank.
class DispatchRun {
 public:
  DispatchRun(const BenchOptions& o, DispatchGroup& group, Workload workload, DispatchMode mode, const Kernels& kernels)
      : o_(o),
        group_(group),
        world_(group.world),
        K_(o.model.top_k),
        D_(o.model.d_model),
        source_(workload, workload_shape(o, group)),
        oracle_(source_, group.map, K_, group.place.ep),
        code_(code_of(o, group, source_)),
        stream_(1),
        dispatcher_(*group.comm, group.rank2node, group.map, mode, stream_, kernels),
        expected_(world_.num_nodes()) {
    row_.workload = workload;
    row_.mode = dispatcher_.mode();
    set_repetition(0);
    gate_R_.resize(static_cast<std::size_t>(
        Dispatcher::max_rows(group.shape.ep * source_.most_tokens(), K_, static_cast<int>(num_experts_here()))));
  }

  DispatchMode mode() const { return row_.mode; }

  DispatchRow measure(double budget) {
    repeat(0);
    Stopwatch clock;
    repeat(0);
    double seconds = clock.seconds();
    max_over_ranks(world_, std::span(&seconds, 1));
    const int period = source_.period(), n = (num_repetitions(budget, seconds) + period - 1) / period * period;
    for (auto& s : seconds_) s.clear();
    forward_ = {};
    expected_ = NodeTraffic(world_.num_nodes());
    row_.rows_r.clear();
    for (int i = 0; i < n; ++i) {
      repeat(i);
      add_node_traffic(oracle_.idx_N(), K_, world_.rank2node()[static_cast<std::size_t>(world_.rank())], group_.map,
                       group_.rank2node, mode(), expected_);
    }
    finish(n);
    return row_;
  }

 private:
  std::size_t num_experts_here() const { return group_.map.rank2experts[static_cast<std::size_t>(group_.place.ep)].size(); }

  void set_repetition(int repetition) {
    oracle_.set_repetition(repetition);
    gate_N_ = oracle_.gate_N();
    const auto T = static_cast<std::size_t>(oracle_.num_tokens());
    code_.write(x_.of(o_.dtype, oracle_.num_tokens(), D_), oracle_.first_id(), std::vector<std::int32_t>(T, 1));
  }

  Mat x() { return x_.of(o_.dtype, oracle_.num_tokens(), D_); }
  Mat sums() { return sums_.of(o_.dtype, oracle_.num_tokens(), D_); }
  Mat rows() { return rows_.of(o_.dtype, route_.num_rows, D_); }
  Mat weighted() { return weighted_.of(o_.dtype, route_.num_rows, D_); }

  // y_RD -> weighted (=) gate * y, as the experts leave it.
  void weigh() {
    const Mat y = rows(), w = weighted();
    for (std::int64_t r = 0; r < y.rows; ++r) {
      const float gate = gate_R_[static_cast<std::size_t>(r)];
      for (std::int64_t c = 0; c < D_; ++c)
        if (o_.dtype == DType::kF32)
          static_cast<float*>(w.row(r))[c] = gate * static_cast<const float*>(y.row(r))[c];
        else
          static_cast<BF16*>(w.row(r))[c] = to_bf16(gate * to_float(static_cast<const BF16*>(y.row(r))[c]));
    }
  }

  void plan() { dispatcher_.plan(oracle_.idx_N(), gate_N_, K_, route_, gate_R_); }
  void dispatch() { dispatcher_.dispatch(route_, x(), rows()); }
  void combine(Mat y) { dispatcher_.combine(route_, y, sums(), Store::kAssign); }
  void gates() {
    dgate_N_.resize(gate_N_.size());
    dispatcher_.return_gates(route_, std::span(gate_R_).first(static_cast<std::size_t>(route_.num_rows)), dgate_N_);
  }

  template <class Body>
  void timed(DispatchPhase phase, Body body) {
    seconds_[static_cast<std::size_t>(phase)].push_back(timed_on_lane(world_, body));
  }

  // Each phase by itself, then forward and backward in a row; all that arrived is looked at, outside of the times.
  void repeat(int repetition) {
    set_repetition(repetition);
    timed(DispatchPhase::kPlan, [&] { plan(); });
    timed(DispatchPhase::kDispatch, [&, y = rows()] { dispatcher_.dispatch(route_, x(), y); });
    check_rows();
    weigh();
    timed(DispatchPhase::kCombine, [&] { combine(weighted()); });
    check_sums(oracle_.gate_sums_T());
    timed(DispatchPhase::kGates, [&] { gates(); });
    row_.num_wrong += oracle_.wrong_gates(dgate_N_, 1);
    count(sent_, dispatcher_.take_traffic());
    timed(DispatchPhase::kForward, [&] {
      plan();
      dispatch();
      combine(rows());
    });
    const DispatchTraffic forward = dispatcher_.take_traffic();
    count(forward_, forward);
    count(sent_, forward);
    const std::vector<std::int32_t> all_slots(static_cast<std::size_t>(oracle_.num_tokens()), K_);
    check_sums(all_slots);
    timed(DispatchPhase::kBackward, [&] {
      dispatch();
      gates();
      combine(rows());
    });
    count(sent_, dispatcher_.take_traffic());
    check_rows();
    check_sums(all_slots);
    if (row_.rows_r.empty()) collect_rows();
  }

  void check_rows() { row_.num_wrong += oracle_.wrong_rows(code_, route_, rows(), gate_R_); }
  void check_sums(const std::vector<std::int32_t>& factors_T) {
    row_.num_wrong += oracle_.wrong_sums(code_, sums(), factors_T);
  }

  static void count(DispatchTraffic& sum, const DispatchTraffic& t) {
    sum.inter_node_bytes += t.inter_node_bytes;
    sum.intra_node_bytes += t.intra_node_bytes;
    sum.control_bytes += t.control_bytes;
    sum.inter_node_bytes_min += t.inter_node_bytes_min;
  }

  void collect_rows() {
    row_.rows_r.assign(static_cast<std::size_t>(world_.size()), 0);
    row_.rows_r[static_cast<std::size_t>(world_.rank())] = route_.num_rows;
    sum_over_ranks(world_, row_.rows_r);
  }

  void finish(int n) {
    for (std::size_t p = 0; p < kNumDispatchPhases; ++p) {
      max_over_ranks(world_, seconds_[p]);
      row_.seconds[p] = timing_of(seconds_[p]);
    }
    std::vector<std::int64_t> sums = {
        forward_.inter_node_bytes, forward_.intra_node_bytes, forward_.control_bytes, forward_.inter_node_bytes_min,
        sent_.inter_node_bytes,    sent_.intra_node_bytes,    row_.num_wrong,         expected_.least};
    sum_over_ranks(world_, sums);
    sum_over_ranks(world_, expected_.sent_n);
    sum_over_ranks(world_, expected_.received_n);
    const double row_bytes = static_cast<double>(size_of(o_.dtype)) * D_;
    const auto mean = [n](std::int64_t sum) { return static_cast<double>(sum) / n; };
    row_.inter_bytes = mean(sums[0]), row_.intra_bytes = mean(sums[1]), row_.control_bytes = mean(sums[2]);
    row_.inter_bytes_min = mean(sums[3]);
    row_.sent_inter_bytes = sums[4], row_.sent_intra_bytes = sums[5], row_.num_wrong = sums[6];
    row_.least_bytes_expected = mean(2 * sums[7] * static_cast<std::int64_t>(row_bytes));
    row_.inter_bytes_expected = mean(2 * expected_.rows() * static_cast<std::int64_t>(row_bytes));
    row_.busiest_node_bytes = mean(expected_.busiest()) * row_bytes;
  }

  const BenchOptions& o_;
  DispatchGroup& group_;
  World& world_;
  int K_;
  std::int64_t D_;
  WorkloadSource source_;
  DispatchOracle oracle_;
  RowCode code_;
  Stream stream_;
  Dispatcher dispatcher_;
  Route route_;
  Rows x_, rows_, weighted_, sums_;
  std::vector<float> gate_N_, gate_R_, dgate_N_;
  std::array<std::vector<double>, kNumDispatchPhases> seconds_;
  DispatchTraffic forward_, sent_;  // of measured forward phases, of everything
  NodeTraffic expected_;
  DispatchRow row_;
};

// Both where they differ, if nobody chose.
std::vector<DispatchMode> modes_of(const BenchOptions& o, DispatchGroup& group, const Kernels& kernels) {
  if (o.ranks.dispatch != DispatchMode::kAuto) return {o.ranks.dispatch};
  Stream stream(1);
  const Dispatcher chooses(*group.comm, group.rank2node, group.map, DispatchMode::kAuto, stream, kernels);
  std::int64_t two_level = chooses.mode() == DispatchMode::kTwoLevel;  // groups may differ
  sum_over_ranks(group.world, std::span(&two_level, 1));
  return two_level > 0 ? std::vector{DispatchMode::kFlat, DispatchMode::kTwoLevel} : std::vector{DispatchMode::kFlat};
}

std::vector<Workload> workloads_of(WorkloadChoice choice) {
  std::vector<Workload> all;
  for (int w = 0; w < kNumWorkloads; ++w)
    if (choice == WorkloadChoice::kAll || static_cast<int>(choice) == w) all.push_back(static_cast<Workload>(w));
  return all;
}

// What can be wrong with the options, before anything is sent.
void check_workloads(const BenchOptions& o, const DispatchGroup& group) {
  for (const Workload w : workloads_of(o.workload)) code_of(o, group, WorkloadSource(w, workload_shape(o, group)));
}

std::vector<std::string> head_lines(const BenchOptions& o, const DispatchGroup& group) {
  const std::string limit =
      o.model.max_nodes_per_token > 0 ? ", at most " + std::to_string(o.model.max_nodes_per_token) + " nodes a token" : "";
  return {"# moe-bench dispatch: " + ranks_text(group.world) + ", groups of " + std::to_string(group.shape.ep) + "; moe " +
              version_text(),
          format_text("# %d tokens a rank, d %d, %d experts top-%d, %s%s", o.tokens, o.model.d_model, o.model.num_experts,
                      o.model.top_k, name_of(o.dtype), limit.c_str())};
}

nlohmann::json run_json(const BenchOptions& o, const DispatchGroup& group) {
  nlohmann::json json = bench_json("dispatch");
  json.update({{"machine", ranks_json(group.world)},
               {"ep", group.shape.ep},
               {"tokens_per_rank", o.tokens},
               {"d_model", o.model.d_model},
               {"experts", o.model.num_experts},
               {"top_k", o.model.top_k},
               {"dtype", name_of(o.dtype)},
               {"row_bytes", static_cast<std::int64_t>(size_of(o.dtype)) * o.model.d_model},
               {"max_nodes_per_token", o.model.max_nodes_per_token},
               {"link_gbits", o.link_gbits}});
  return json;
}

}  // namespace

Exit bench_dispatch(const BenchOptions& o, World& world, const Kernels& kernels) {
  std::FILE* out = table_file(o);
  MeshShape shape;
  world.agree([&] { shape = shape_of(o, world); });
  DispatchGroup group(o, world, shape);
  world.agree([&] { check_workloads(o, group); });
  print_lines(world, out, head_lines(o, group));
  if (o.common.dry_run) return Exit::kOk;
  print_lines(world, out, dispatch_legend(o.link_gbits));
  print_lines(world, out, {dispatch_header()});
  const std::vector<DispatchMode> modes = modes_of(o, group, kernels);
  nlohmann::json json = run_json(o, group), rows = nlohmann::json::array(), pairs = nlohmann::json::array();
  std::vector<std::string> notes;
  bool passed = true;
  for (const Workload workload : workloads_of(o.workload)) {
    std::vector<DispatchRow> measured;
    for (const DispatchMode mode : modes) {
      measured.push_back(DispatchRun(o, group, workload, mode, kernels).measure(o.seconds > 0 ? o.seconds : 1));
      print_lines(world, out, {dispatch_line(measured.back(), o.link_gbits)});
      rows.push_back(dispatch_json(measured.back(), o.link_gbits));
      passed = passed && measured.back().passed();
    }
    for (const std::string& line : histogram_lines(measured[0])) notes.push_back(line);
    if (measured.size() < 2 || !measured[0].passed() || !measured[1].passed()) continue;
    notes.push_back(comparison_line(measured[0], measured[1]));
    pairs.push_back(comparison_json(measured[0], measured[1]));
  }
  print_lines(world, out, notes);
  json["rows"] = rows;
  json["flat_over_two_level"] = pairs;
  json["passed"] = passed;
  if (world.rank() == 0) write_result_json(o.common.json, json);
  return passed ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
