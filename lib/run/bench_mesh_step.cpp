// `moe-bench step` on the ranks of a mesh: whole training steps on random tokens, with what each rank computed, what its
// lane communicated, and how much of that was exposed. A GPU is waited for where a step ends; what the host's clock cannot
// see of it is not told. Not here: the report (bench_mesh_report.cpp).
#include "lib/run/bench_mesh_step.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <sstream>
#include <utility>

#include "lib/base/provenance.h"
#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"
#include "lib/model/load_metrics.h"
#include "lib/run/bench.h"
#include "lib/run/bench_device.h"
#include "lib/run/bench_measure.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/global_batch.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/peak.h"
#include "lib/run/result.h"
#include "lib/run/trainer.h"
#include "lib/tensor/host_room.h"

namespace moe {
namespace {

// Memory of this process that is its own: what ranks share to exchange messages is not counted. Of a GPU what is in use.
double memory_bytes(const Device& device) {
  std::size_t used = 0, total = 0;
  device.memory(&used, &total);
  if (device.kind != DeviceKind::kCpu) return static_cast<double>(used);
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.rfind("RssAnon:", 0) == 0) return 1024 * std::strtod(line.c_str() + 8, nullptr);
  return 0;
}

double bytes_held(const ParamStore& store, DType dtype, double MeshStepReport::*part) {
  double bytes = 0;
  for (const Param& p : store.all()) {
    const auto shard = static_cast<double>(p.shard_size()), all = static_cast<double>(p.num_local());
    const int zero = store.layout().zero;
    if (part == &MeshStepReport::weight_bytes) bytes += static_cast<double>(size_of(dtype)) * (zero == 3 ? shard : all);
    if (part == &MeshStepReport::master_bytes && static_cast<const void*>(p.master) != p.weight_shard) bytes += 4 * shard;
    if (part == &MeshStepReport::grad_bytes) bytes += 4 * (zero >= 2 ? shard : all);
    if (part == &MeshStepReport::moment_bytes) bytes += 8 * shard;
  }
  return bytes;
}

// Seconds of a step on this rank. On a GPU the parts but the update hold what the host did.
struct MeshSample {
  double seconds = 0, exposed = 0;
  std::array<double, kNumMeshParts> parts{};
  std::map<std::string, LaneTime> lane;
};

class MeshStepRun {
 public:
  MeshStepRun(const BenchOptions& o, World& world, const MeshOptions& mesh, Env env)
      : o_(o),
        world_(world),
        env_(env),
        memory_before_(memory_bytes(env.stream.device())),
        mesh_(world, mesh, o.model.num_experts, env.kernels, env.stream.device()),
        model_(o.model, o.dtype, true, mesh_),
        cut_{o.batch, o.micro_batch, o.seq, world.size(), world.rank()},
        pass_options_{.shape = {cut_.micro_batch_per_rank(), o.seq}, .recompute = o.recompute, .balance = o.balance},
        pass_(model_, pass_options_, env) {
    std::size_t T = 0;
    for (int i = 0; i < cut_.num_micro_batches(); ++i)
      T += static_cast<std::size_t>(cut_.range(i).count) * static_cast<std::size_t>(o.seq);
    const auto room = tokens_.of<std::int32_t>(2 * T);
    id_T_ = room.first(T), target_T_ = room.last(T);
    model_.initialize(o.common.seed);
  }

  // As in one process: at least three after two that are not measured; all ranks the same number.
  void run(double budget) {
    step();
    step();
    double seconds = samples_.back().seconds;
    max_over_ranks(world_, std::span(&seconds, 1));
    const int n = num_repetitions(budget, seconds);
    samples_.clear();
    const WaitClock wait((env_.stream.is_cpu() ? env_.stream.num_threads() : 1) + 1);  // the lane is a thread, too
    for (int i = 0; i < n; ++i) step();
    waited_ = wait.fraction();
  }

  void report(MeshStepReport& r) {
    std::vector<double> seconds;
    for (const MeshSample& s : samples_) seconds.push_back(s.seconds);
    max_over_ranks(world_, seconds);
    r.seconds = timing_of(seconds);
    report_parts(r);
    report_lane(r);
    report_memory(r);
    r.waited = spread(waited_).mean;
    report_checks(r);
  }

 private:
  // The tokens of a sequence depend on its number alone, so that every mesh sees the same ones.
  void fill_batch() {
    const Rng rng(o_.common.seed, "bench tokens");
    const auto S = static_cast<std::uint64_t>(o_.seq), B = static_cast<std::uint64_t>(o_.batch);
    const auto V = static_cast<std::uint64_t>(o_.model.vocab_size);
    auto id = id_T_.begin(), target = target_T_.begin();
    for (int i = 0; i < cut_.num_micro_batches(); ++i) {
      const BatchCut::Range range = cut_.range(i);
      const std::uint64_t first = (static_cast<std::uint64_t>(num_steps_) * B + static_cast<std::uint64_t>(range.first)) * S;
      for (std::uint64_t t = first; t < first + static_cast<std::uint64_t>(range.count) * S; ++t) {
        *id++ = static_cast<std::int32_t>(rng.bits(2 * t) % V);
        *target++ = static_cast<std::int32_t>(rng.bits(2 * t + 1) % V);
      }
    }
  }

  // The i-th, whose tokens begin at `at` of those here; `at` moves on.
  MicroBatch micro_batch(int i, std::size_t& at) const {
    const BatchShape shape{cut_.range(i).count, o_.seq};
    const auto T = static_cast<std::size_t>(shape.num_tokens()), begin = std::exchange(at, at + T);
    return {.shape = shape,
            .id_T = id_T_.subspan(begin, T),
            .target_T = target_T_.subspan(begin, T),
            .loss_scale = 1 / static_cast<double>(o_.batch_shape().num_tokens()),
            .share = static_cast<float>(shape.num_seqs) / static_cast<float>(o_.batch),
            .last_of_step = i + 1 == cut_.num_micro_batches(),
            .mtp_scale_D = mtp_scale_};
  }

  // What Trainer::step does, on random tokens and without clipping.
  void step() {
    fill_batch();
    pass_.reset_tallies();
    mesh_.lane().take_times();
    world_.watchdog().set_step(++num_steps_);
    const Stopwatch whole;
    Stopwatch part;
    std::size_t at = 0;
    for (int i = 0; i < cut_.num_micro_batches(); ++i) {
      const MicroBatch batch = micro_batch(i, at);
      pass_.forward(batch);
      pass_.backward(batch);
    }
    model_.units().finish_gradients();
    agree();
    const double before_update = part.lap();
    env_.kernels.adamw.step(env_.stream, tensors_, {.lr = 3e-4f, .step = num_steps_});
    model_.units().weights_changed();
    if (model_.params().layout().zero == 1) model_.units().clear_gradients();
    env_.stream.synchronize();
    collect(whole.seconds(), before_update, part.lap());
  }

  void agree() {
    tensors_ = model_.params().adamw_tensors(0.1f);
    squares_.zero();
    gradient_squares(model_, env_, squares_.data());
    squares_.fetch();
    std::array<double, 2> sums = {pass_.take_losses().front(), squares_.fetched()};
    mesh_.lane().call_on_host("step totals", [&] { all_reduce_sum(world_.comm(), "step totals", std::span<double>(sums)); });
    const double loss = sums[0] / static_cast<double>(o_.batch_shape().num_tokens());
    if (num_steps_ == 1) first_loss_ = loss;
    largest_loss_.add(loss, 0, 1);
    largest_norm_.add(std::sqrt(sums[1]), 0, 1);
  }

  void collect(double seconds, double before_update, double update) {
    MeshSample s{.seconds = seconds, .exposed = 0, .parts = {}, .lane = mesh_.lane().take_times()};
    for (const auto& [name, time] : s.lane) s.exposed += time.exposed;
    const auto& segments = pass_.segment_seconds();
    std::copy(segments.begin(), segments.end(), s.parts.begin());
    const double in_segments = std::accumulate(segments.begin(), segments.end(), 0.0);
    s.parts[static_cast<std::size_t>(MeshPart::kEnds)] = std::max(0.0, before_update - in_segments - s.exposed);
    s.parts[static_cast<std::size_t>(MeshPart::kUpdate)] = update;
    samples_.push_back(std::move(s));
  }

  RankSpread spread(double mine) const {
    double max = mine, sum = mine;
    max_over_ranks(world_, std::span(&max, 1));
    sum_over_ranks(world_, std::span(&sum, 1));
    return {sum / world_.size(), max};
  }
  template <class Of>
  RankSpread mean_spread(Of of) const {
    double sum = 0;
    for (const MeshSample& s : samples_) sum += of(s);
    return spread(sum / static_cast<double>(samples_.size()));
  }

  void report_parts(MeshStepReport& r) const {
    r.step = mean_spread([](const MeshSample& s) { return s.seconds; });
    r.exposed = mean_spread([](const MeshSample& s) { return s.exposed; });
    r.compute = mean_spread([](const MeshSample& s) { return s.seconds - s.exposed; });
    for (std::size_t p = 0; p < kNumMeshParts; ++p)
      r.parts[p] = mean_spread([p](const MeshSample& s) { return s.parts[p]; });
  }

  // All names of all ranks, in one order: who waited for what is told by luck.
  std::set<std::string> lane_names() const {
    std::string mine;
    for (const MeshSample& s : samples_)
      for (const auto& [name, unused] : s.lane) mine += name + "\n";
    std::vector<std::string> all;
    mesh_.lane().call("bench", [&] { all = all_gather(world_.comm(), "bench names", mine); });
    std::set<std::string> names;
    for (const std::string& lines : all) {
      std::istringstream in(lines);
      for (std::string name; std::getline(in, name);) names.insert(name);
    }
    return names;
  }

  void report_lane(MeshStepReport& r) const {
    for (const std::string& name : lane_names()) {
      const auto time_of = [&name](const MeshSample& s) {
        const auto at = s.lane.find(name);
        return at == s.lane.end() ? LaneTime() : at->second;
      };
      r.lane[name.empty() ? "(between tasks)" : name] = {
          mean_spread([&](const MeshSample& s) { return time_of(s).busy; }),
          mean_spread([&](const MeshSample& s) { return time_of(s).exposed; })};
    }
  }

  std::vector<double> by_rank(double mine) const {
    std::vector<double> all(static_cast<std::size_t>(world_.size()));
    all[static_cast<std::size_t>(world_.rank())] = mine;
    sum_over_ranks(world_, std::span<double>(all));
    return all;
  }

  void report_memory(MeshStepReport& r) const {
    const auto predict = [&](int rank, std::int64_t rows = -1) {
      return predict_memory(o_.model, o_.dtype, pass_options_, r.mesh, place_of(r.mesh.shape, rank), rows);
    };
    const double now = memory_bytes(env_.stream.device());
    r.measured_r = by_rank(now - memory_before_);
    if (!env_.stream.is_cpu()) r.in_use_r = by_rank(now);
    r.predicted_r = by_rank(static_cast<double>(predict(world_.rank()).total()));
    const auto most = std::max_element(r.measured_r.begin(), r.measured_r.end());
    const auto rank = static_cast<std::size_t>(most - r.measured_r.begin());
    r.measured_bytes = *most;
    r.predicted = predict(static_cast<int>(rank));
    const auto rows = static_cast<std::int64_t>(by_rank(static_cast<double>(pass_.most_rows()))[rank]);
    r.predicted_with_rows_bytes = predict(static_cast<int>(rank), rows).total();
    for (double MeshStepReport::*part : {&MeshStepReport::weight_bytes, &MeshStepReport::master_bytes,
                                         &MeshStepReport::grad_bytes, &MeshStepReport::moment_bytes})
      r.*part = by_rank(bytes_held(model_.params(), o_.dtype, part))[rank];
  }

  // Copies get equal parts.
  std::vector<std::int64_t> rows_by_rank(const std::vector<std::int64_t>& counts_E, int layer) const {
    const LayerPlacement& placed = mesh_.placed(layer);
    std::vector<std::int64_t> copies(counts_E.size()), rows;
    for (const int e : placed.slot2expert()) ++copies[static_cast<std::size_t>(e)];
    for (const auto& experts : placed.rank2experts) {
      rows.push_back(0);
      for (const auto e : experts)
        rows.back() += counts_E[static_cast<std::size_t>(e)] / copies[static_cast<std::size_t>(e)];
    }
    return rows;
  }

  void report_checks(MeshStepReport& r) {
    pass_.pull_tallies();
    std::vector<std::int64_t> counts;
    double max_vio = 0, rank_max_vio = 0, routed = 0;
    const auto E = static_cast<std::size_t>(o_.model.num_experts);
    for (const int layer : model_.moe_layers()) {
      const auto& counts_E = pass_.tallies()[static_cast<std::size_t>(layer)].counts_E;
      counts.insert(counts.end(), counts_E.begin(), counts_E.end());
    }
    if (!counts.empty()) sum_over_ranks(world_, counts);
    auto at = counts.begin();
    for (const int layer : model_.moe_layers()) {
      const std::vector<std::int64_t> counts_E(at, at + static_cast<std::ptrdiff_t>(E));
      at += static_cast<std::ptrdiff_t>(E);
      max_vio += load_metrics(counts_E).max_vio;
      rank_max_vio += load_metrics(rows_by_rank(counts_E, layer)).max_vio;
    }
    for (const std::int64_t c : counts) routed += static_cast<double>(c);
    if (!counts.empty()) r.max_vio = max_vio / o_.model.num_moe_layers();
    if (!counts.empty()) r.rank_max_vio = rank_max_vio / o_.model.num_moe_layers();
    const double want = expected_first_loss(o_.model), slack = o_.model.tied_embeddings ? 0.5 : 0.1;
    const double rows = static_cast<double>(o_.batch_shape().num_tokens()) * o_.model.top_k * o_.model.num_moe_layers();
    constexpr double kMax = std::numeric_limits<double>::max();
    r.checks = {{"first_loss_near_ln_vocab", first_loss_, want - slack, want + slack},
                {"largest_loss_is_finite", largest_loss_.value(), 0, kMax},
                {"largest_gradient_norm_is_finite", largest_norm_.value(), 0, kMax},
                {"routed_rows_per_step", routed, rows, rows}};
  }

  const BenchOptions& o_;
  World& world_;
  Env env_;
  double memory_before_;
  MeshContext mesh_;
  Model model_;
  BatchCut cut_;
  PassOptions pass_options_;
  Pass pass_;
  DeviceNumber squares_{env_.stream};
  HostRoom tokens_{env_.stream.device()};
  std::span<std::int32_t> id_T_, target_T_;  // of a step
  std::vector<double> mtp_scale_ = std::vector<double>(static_cast<std::size_t>(pass_.num_modules()),
                                                       0.3 / static_cast<double>(o_.batch_shape().num_tokens()));
  std::vector<AdamWTensor> tensors_;
  std::int64_t num_steps_ = 0;
  double first_loss_ = 0, waited_ = 0;
  WorstDeviation largest_loss_, largest_norm_;
  std::vector<MeshSample> samples_;
};

std::vector<std::string> head_lines(const BenchOptions& o, const World& world, const MeshOptions& mesh, Env env) {
  const ModelConfig& c = o.model;
  const ParamCounts n = count_parameters(c);
  const std::string where = env.stream.is_cpu()
                                ? format_text("# %s; %d threads a rank; %s kernels; moe %s", processor_name().c_str(),
                                              env.stream.num_threads(), env.kernels.isa, version_text().c_str())
                                : "# " + link_text(env.stream.device(), mesh.gpu_comm) + "; moe " + version_text();
  return {"# moe-bench step --shape " + o.shape + ": forward, backward, AdamW on random tokens; " + ranks_text(world) +
              ", " + mesh_text(mesh.shape) + ", ZeRO-" + std::to_string(mesh.zero) + (mesh.overlap ? "" : ", --overlap off"),
          format_text("# model: d %d, %d layers, %d heads of %d (%d kv), %d experts top-%d of width %d, vocab %d, %d x %d "
                      "tokens, %s; %.2f M parameters, %.2f M active",
                      c.d_model, c.num_layers, c.num_heads, c.head_dim, c.num_kv_heads, c.num_experts, c.top_k, c.expert_ffn,
                      c.vocab_size, o.batch, o.seq, name_of(o.dtype), static_cast<double>(n.total) * 1e-6,
                      static_cast<double>(n.active) * 1e-6),
          where};
}

}  // namespace

Exit bench_mesh_step(const BenchOptions& o, World& world, const Compute& compute, GpuComm way) {
  MeshOptions mesh;
  world.agree([&] { mesh = choose_mesh(o.ranks, world, o.model, false); });
  world.require_same({plan_fact(mesh.plan)});
  mesh.gpu_comm = way;
  Stream stream = compute_stream(compute, o.common);
  const Env env{stream, compute.kernels};
  std::FILE* out = table_file(o);
  print_lines(world, out, head_lines(o, world, mesh, env));
  if (o.common.dry_run) return Exit::kOk;
  MeshStepReport report{
      .model = o.model, .mesh = mesh, .batch = o.batch_shape(), .num_ranks = world.size(), .on_gpu = !compute.on_cpu()};
  timed_on_lane(world, stream, [] {});
  report.gemm_peak_gflops = gemm_peak_gflops(env, o.dtype, 0.25);
  sum_over_ranks(world, std::span(&report.gemm_peak_gflops, 1));
  MeshStepRun run(o, world, mesh, env);
  run.run(o.seconds > 0 ? o.seconds : 5);
  run.report(report);
  print_lines(world, out, mesh_step_lines(report));
  nlohmann::json json = mesh_step_json(report);
  json.update(bench_json("step"));
  json["shape"] = o.shape;
  json["machine"] = ranks_json(world);
  json["machine"].update(machine_json(env));
  json["machine"].update(link_json(compute.device, way));
  if (world.rank() == 0) write_result_json(o.common.json, json);
  return report.passed() ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
