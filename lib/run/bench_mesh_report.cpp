// The table and the JSON of `moe-bench step` on a mesh.
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "lib/run/bench_mesh_step.h"
#include "lib/run/bench_ranks.h"
#include "lib/run/summary.h"

namespace moe {
namespace {

nlohmann::json spread_json(const RankSpread& s) { return {{"mean", 1e3 * s.mean}, {"max", 1e3 * s.max}}; }

std::string part_line(const MeshStepReport& r, const char* name, const RankSpread& s) {
  return format_text("%-22s %10.3f %10.3f %7.1f", name, 1e3 * s.mean, 1e3 * s.max, 100 * s.mean / r.step.mean);
}

std::string lane_line(const std::string& name, const MeshStepReport::Lane& l) {
  const double hidden = l.busy.mean > 0 ? 100 * std::clamp(1 - l.exposed.mean / l.busy.mean, 0.0, 1.0) : 0;
  return format_text("%-22s %10.3f %10.3f %10.3f %10.3f %7.1f", name.c_str(), 1e3 * l.busy.mean, 1e3 * l.busy.max,
                     1e3 * l.exposed.mean, 1e3 * l.exposed.max, hidden);
}

std::string unknown_line(const char* name) { return format_text("%-22s %10s %10s %7s", name, "-", "-", "-"); }

void add_parts(const MeshStepReport& r, std::vector<std::string>& lines) {
  lines.push_back(
      "# ms of a step, mean over steps: mean over ranks, and of the rank with most; ends: embedding, head, loss");
  if (r.on_gpu) lines.push_back("# -: not known of a GPU, which takes the kernels of all parts from one queue");
  lines.push_back(format_text("%-22s %10s %10s %7s", "# computation", "mean", "max", "%step"));
  for (std::size_t p = 0; p < kNumMeshParts; ++p)
    if (!r.knows(p))
      lines.push_back(unknown_line(kMeshPartNames[p]));
    else if (r.parts[p].max > 0)
      lines.push_back(part_line(r, kMeshPartNames[p], r.parts[p]));
  lines.push_back(part_line(r, "all_computation", r.compute));
  lines.push_back(part_line(r, "exposed_communication", r.exposed));
  lines.push_back(part_line(r, "step", r.step));
}

void add_lane(const MeshStepReport& r, std::vector<std::string>& lines) {
  lines.push_back(
      "# communication: busy while the lane was in it, waiting for other ranks too; exposed: nothing was computed");
  lines.push_back(
      format_text("%-22s %10s %10s %10s %10s %7s", "# communication", "busy", "busy max", "exposed", "exp. max", "%hidden"));
  for (const auto& [name, lane] : r.lane) lines.push_back(lane_line(name, lane));
}

void add_results(const MeshStepReport& r, std::vector<std::string>& lines) {
  if (!r.passed()) return;
  const auto add = [&](const char* name, double value, const char* what) {
    lines.push_back(format_text("%-20s %12.4g  %s", name, value, what));
  };
  lines.push_back(format_text("%-20s %12.0f  of all ranks", "tokens_per_second", r.tokens_per_second()));
  lines.push_back(format_text("%-20s %12.1f  %.1f %% of the GEMM peak of all ranks at once, %.0f GFLOP/s", "gflops_causal",
                              r.gflops(true), 100 * r.gflops(true) / r.gemm_peak_gflops, r.gemm_peak_gflops));
  lines.push_back(format_text("%-20s %12.2f  median of %d, %.2f to %.2f", "step_ms", 1e3 * r.seconds.median,
                              r.seconds.num_repetitions, 1e3 * r.seconds.min, 1e3 * r.seconds.max));
  add("compute_only_ms", 1e3 * r.compute.max, "computation of the slowest rank: a step if all communication were hidden");
  add("step_over_compute", r.step_over_compute(), "");
  add("exposed_ms", 1e3 * r.exposed.mean, "that a rank stood waiting for communication, mean");
  add("imbalance_ms", 1e3 * r.imbalance_seconds(), "computation of the slowest rank beyond the mean");
  lines.push_back(
      format_text("%-20s %12.1f  of the time threads could run but had no processor", "waited_percent", 100 * r.waited));
  lines.push_back(
      format_text("%-20s %12.2f  mean over layers of the busiest expert's rows / mean - 1", "load_max_vio", r.max_vio));
  lines.push_back(
      format_text("%-20s %12.2f  the same of ranks: what no overlap hides", "rank_load_max_vio", r.rank_max_vio));
}

void add_memory(const MeshStepReport& r, std::vector<std::string>& lines) {
  const ModelMemory& m = r.predicted;
  const auto mb = [](double bytes) { return bytes * 1e-6; };
  const auto of = [&](std::size_t bytes) { return mb(static_cast<double>(bytes)); };
  lines.push_back("# memory of the rank with most, 1e6 bytes: predicted before anything is taken, and measured or counted");
  lines.push_back(format_text("memory_total         %10.2f %10.2f  %s", of(m.total()), mb(r.measured_bytes),
                              r.on_gpu ? "grown on its GPU, by all processes there" : "grown by the process"));
  if (r.on_gpu)
    lines.push_back(format_text("device_memory_mb     %10s %10.2f  in use on the fullest GPU, by all processes there", "",
                                mb(*std::max_element(r.in_use_r.begin(), r.in_use_r.end()))));
  lines.push_back(
      format_text("memory_with_rows     %10.2f %10s  predicted for the most rows that came, not for balanced routing",
                  of(r.predicted_with_rows_bytes), ""));
  lines.push_back(format_text("memory_weights       %10.2f %10.2f  held here", of(m.weights), mb(r.weight_bytes)));
  lines.push_back(format_text("memory_masters       %10.2f %10.2f", of(m.masters), mb(r.master_bytes)));
  lines.push_back(format_text("memory_gradients     %10.2f %10.2f", of(m.grads), mb(r.grad_bytes)));
  lines.push_back(format_text("memory_moments       %10.2f %10.2f", of(m.moments), mb(r.moment_bytes)));
  lines.push_back(format_text("memory_activations   %10.2f %10s", of(m.activations), "-"));
  lines.push_back(format_text("memory_buffers       %10.2f %10s", of(m.buffers), "-"));
}

}  // namespace

bool MeshStepReport::passed() const {
  return std::all_of(checks.begin(), checks.end(), [](const StepCheck& c) { return c.passed(); });
}
double MeshStepReport::gflops(bool causal) const {
  return flop_per_token(model, batch.seq_len, causal) * tokens_per_second() * 1e-9;
}

std::vector<std::string> mesh_step_lines(const MeshStepReport& r) {
  std::vector<std::string> lines;
  add_parts(r, lines);
  add_lane(r, lines);
  add_results(r, lines);
  add_memory(r, lines);
  for (const StepCheck& c : r.checks)
    lines.push_back(format_text("# check %-30s %12.6g in [%.6g, %.6g] %s", c.name.c_str(), c.found, c.low, c.high,
                                c.passed() ? "ok" : "FAILED"));
  return lines;
}

namespace {

// What the process took, or what was taken on GPUs.
nlohmann::json measured_memory_json(const MeshStepReport& r) {
  const nlohmann::json none;
  nlohmann::json json = {{"memory_measured_bytes", r.on_gpu ? none : nlohmann::json(r.measured_bytes)},
                         {"memory_measured_bytes_by_rank", r.on_gpu ? none : nlohmann::json(r.measured_r)}};
  if (!r.on_gpu) return json;
  json["device_bytes"] = *std::max_element(r.in_use_r.begin(), r.in_use_r.end());
  json["device_bytes_by_rank"] = r.in_use_r;
  json["device_grown_bytes"] = r.measured_bytes;
  json["device_grown_bytes_by_rank"] = r.measured_r;
  return json;
}

}  // namespace

nlohmann::json mesh_step_json(const MeshStepReport& r) {
  nlohmann::json parts, lane;
  for (std::size_t p = 0; p < kNumMeshParts; ++p)
    parts[kMeshPartNames[p]] = r.knows(p) ? spread_json(r.parts[p]) : nlohmann::json();
  for (const auto& [name, l] : r.lane)
    lane[name] = {{"busy_ms", spread_json(l.busy)}, {"exposed_ms", spread_json(l.exposed)}};
  nlohmann::json json = {{"mesh",
                          {{"replicate", r.mesh.shape.replicate},
                           {"shard", r.mesh.shape.shard},
                           {"ep", r.mesh.shape.ep},
                           {"zero", r.mesh.zero}}},
                         {"overlap", r.mesh.overlap},
                         {"ranks", r.num_ranks},
                         {"tokens_per_step", r.batch.num_tokens()},
                         {"checks", checks_json(r.checks)},
                         {"passed", r.passed()},
                         {"memory_predicted_bytes", r.predicted.total()},
                         {"memory_predicted_with_rows_bytes", r.predicted_with_rows_bytes},
                         {"memory_predicted_bytes_by_rank", r.predicted_r},
                         {"memory",
                          {{"weights", {{"predicted", r.predicted.weights}, {"held", r.weight_bytes}}},
                           {"masters", {{"predicted", r.predicted.masters}, {"held", r.master_bytes}}},
                           {"gradients", {{"predicted", r.predicted.grads}, {"held", r.grad_bytes}}},
                           {"moments", {{"predicted", r.predicted.moments}, {"held", r.moment_bytes}}},
                           {"activations", {{"predicted", r.predicted.activations}}},
                           {"buffers", {{"predicted", r.predicted.buffers}}}}},
                         {"gemm_peak_gflops", r.gemm_peak_gflops},
                         {"load_max_vio", r.max_vio},
                         {"rank_load_max_vio", r.rank_max_vio}};
  json.update(measured_memory_json(r));
  if (!r.passed()) return json;
  json["step_us"] = timing_json(r.seconds);
  json["step_seconds"] = r.step.max;
  json["compute_only_seconds"] = r.compute.max;
  json["step_over_compute"] = r.step_over_compute();
  json["exposed_seconds"] = r.exposed.mean;
  json["imbalance_seconds"] = r.imbalance_seconds();
  json["compute_ms"] = parts;
  json["communication"] = lane;
  json["tokens_per_second"] = r.tokens_per_second();
  json["gflops_causal"] = r.gflops(true);
  json["percent_of_gemm_peak_causal"] = 100 * r.gflops(true) / r.gemm_peak_gflops;
  return json;
}

}  // namespace moe
