// The table and the JSON of `moe-bench step`.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/model/params.h"
#include "lib/run/bench_step.h"

namespace moe {
namespace {

constexpr StepPhase kPhases[] = {StepPhase::kForward, StepPhase::kBackwardInput, StepPhase::kBackwardWeight,
                                 StepPhase::kUpdate};

template <class... Args>
std::string text(const char* format, Args... args) {
  char buffer[240];
  std::snprintf(buffer, sizeof buffer, format, args...);
  return buffer;
}

std::string part_line(const StepReport& r, StepPart part, double flop) {
  const StepTimes& t = r.median.parts;
  std::string line = text("%-15s %-17s", name_of(part), segment_of(part));
  for (const StepPhase phase : kPhases) line += text(" %9.2f", 1e3 * t.of(part, phase));
  line += text(" %9.2f %6.1f", 1e3 * t.of(part), 100 * t.of(part) / r.median.seconds);
  if (flop == 0) return line + text(" %9s %6s", "-", "-");
  const double rate = flop / t.of(part) * 1e-9;
  return line + text(" %9.1f %6.1f", rate, 100 * rate / r.gemm_peak());
}

std::string total_line(const StepReport& r) {
  std::string line = text("%-15s %-17s", "step", "all");
  const auto& p = r.median.phase_seconds;
  line += text(" %9.2f %9.2f %9s %9.2f %9.2f %6.1f", 1e3 * p[0], 1e3 * p[1], "(both)", 1e3 * p[3], 1e3 * r.median.seconds,
               100.0);
  if (!r.passed()) return line + text(" %9s %6s", "FAILED", "-");
  if (r.peaks.of_device) return line + text(" %9s %6s", "-", "-");  // its figures are those of steps without marks
  return line + text(" %9.1f %6.1f", r.gflops(true), 100 * r.gflops(true) / r.gemm_peak());
}

std::string check_line(const StepCheck& c) {
  return text("# check %-28s %12.6g in [%.6g, %.6g] %s", c.name.c_str(), c.found, c.low, c.high,
              c.passed() ? "ok" : "FAILED");
}

std::string rate_line(const char* name, double gflops, const StepReport& r) {
  std::string line = text("%-20s %10.1f  %5.1f %% of the GEMM peak", name, gflops, 100 * gflops / r.gemm_peak());
  if (r.peaks.of_device) return line + " (model-FLOP utilisation)";
  return line + text(", %5.1f %% of the register peak", 100 * gflops / r.peaks.register_gflops);
}

void add_results(const StepReport& r, std::vector<std::string>& lines) {
  if (!r.passed()) return;
  const double causal = r.gflops(true), full = r.gflops(false);
  lines.push_back(text("tokens_per_second    %10.0f", r.tokens_per_second()));
  lines.push_back(rate_line("gflops_causal", causal, r));
  lines.push_back(rate_line("gflops_full", full, r));
  lines.push_back(
      text("step_ms              %10.1f  median of %d, %.1f to %.1f: %lld tokens in %d micro-batch%s, the optimizer",
           1e3 * r.seconds.median, r.seconds.num_repetitions, 1e3 * r.seconds.min, 1e3 * r.seconds.max,
           static_cast<long long>(r.shape.num_tokens()), r.num_micro_batches, r.num_micro_batches == 1 ? "" : "es"));
  if (r.peaks.of_device) {
    const auto& p = r.phase_seconds;
    lines.push_back(text("phases_ms            %10.1f  forward, %.1f backward, %.1f norm and update, of the median step",
                         1e3 * p[0], 1e3 * p[1], 1e3 * p[3]));
  }
  lines.push_back(
      text("waited_percent       %10.1f  of the time threads could run but had no processor", 100 * r.seconds.waited));
  lines.push_back(text("peak_rss_mb          %10.0f", r.peak_rss_bytes * 1e-6));
  if (r.peaks.of_device) lines.push_back(text("device_memory_mb     %10.0f", r.device_bytes * 1e-6));
  lines.push_back(text("load_max_vio         %10.2f  mean over layers of the busiest expert's rows / mean - 1", r.max_vio));
}

}  // namespace

bool StepReport::passed() const {
  return std::all_of(checks.begin(), checks.end(), [](const StepCheck& c) { return c.passed(); });
}
double StepReport::gemm_peak() const { return std::max(peaks.gemm_gflops, gemm_peak_after); }
double StepReport::tokens_per_second() const { return static_cast<double>(shape.num_tokens()) / seconds.median; }
double StepReport::gflops(bool causal) const {
  return flop_per_token(model, shape.seq_len, causal) * tokens_per_second() * 1e-9;
}

std::array<double, kNumStepParts> flop_by_part(const ModelConfig& c, const BatchShape& shape) {
  std::array<double, kNumStepParts> flop{};
  const double T = static_cast<double>(shape.num_tokens());
  double counted = 0;
  for (const ParamSpec& spec : parameter_specs(c)) {
    if (spec.is_input_embedding && !c.tied_embeddings) continue;
    const std::int64_t used = spec.is_expert ? spec.num_elements() / c.num_experts * c.top_k : spec.num_elements();
    const double work = 6.0 * static_cast<double>(used) * T;
    counted += work;
    if (const StepPart part = part_of_param(spec); part != StepPart::kNorm) flop[static_cast<std::size_t>(part)] += work;
  }
  flop[static_cast<std::size_t>(StepPart::kAttention)] = flop_per_token(c, shape.seq_len, true) * T - counted;
  return flop;
}

double expected_first_loss(const ModelConfig& c) {
  const double V = c.vocab_size, D = c.d_model, std = c.init_std;
  // Normed rows times normal weights are normal logits; with tied embeddings each token's own logit is near std * D.
  const double own = c.tied_embeddings ? std::exp(std::min(std * D, 80.0)) : 0;
  return std::log(V * std::exp(std * std * D / 2) + own);
}

std::vector<std::string> step_lines(const StepReport& r) {
  std::vector<std::string> lines = {
      "# times in ms of the step whose time is the median; backward_i: gradients of activations, backward_w: of weights; "
      "(both): in backward_i",
      "# rate   model FLOP (6 per active parameter and token; attention 6 L D seq, causal) / time, GFLOP/s; the router's "
      "counts",
      "#        its product only, but its time holds choice and losses, as that of head_loss holds the cross entropy",
      "# %gemm  of the GEMM peak of this run, the larger of before and after the steps",
      "# other  copies of the residual stream, gathering of gates, counting of loads, and all that is no kernel",
      text("%-15s %-17s %9s %9s %9s %9s %9s %6s %9s %6s", "# part", "segment", "forward", "backward_i", "backward_w",
           "update", "total", "%time", "rate", "%gemm")};
  if (r.peaks.of_device)
    lines.insert(lines.begin(),
                 "# parts: of one step more, with marks around every kernel; the figures below are of steps without");
  const auto flop = flop_by_part(r.model, r.shape);
  for (std::size_t p = 0; p < kNumStepParts; ++p)
    if (const auto part = static_cast<StepPart>(p); r.median.parts.of(part) > 0)
      lines.push_back(part_line(r, part, flop[p]));
  lines.push_back(text("%-15s %-17s %9s %9s %9s %9s %9.2f %6.1f %9s %6s", "other", "-", "-", "-", "-", "-",
                       1e3 * r.other_seconds(), 100 * r.other_seconds() / r.median.seconds, "-", "-"));
  lines.push_back(total_line(r));
  add_results(r, lines);
  for (const StepCheck& c : r.checks) lines.push_back(check_line(c));
  return lines;
}

nlohmann::json checks_json(const std::vector<StepCheck>& checks) {
  nlohmann::json list = nlohmann::json::array();
  for (const StepCheck& c : checks)
    list.push_back({{"name", c.name},
                    {"found", std::isfinite(c.found) ? nlohmann::json(c.found) : nlohmann::json(nullptr)},
                    {"low", c.low},
                    {"high", c.high},
                    {"passed", c.passed()}});
  return list;
}

nlohmann::json step_json(const StepReport& r) {
  static constexpr const char* kPhaseNames[] = {"forward_ms", "backward_input_ms", "backward_weight_ms", "update_ms"};
  nlohmann::json parts = nlohmann::json::array();
  const auto flop = flop_by_part(r.model, r.shape);
  for (std::size_t p = 0; p < kNumStepParts; ++p) {
    const auto part = static_cast<StepPart>(p);
    nlohmann::json row = {{"part", name_of(part)},
                          {"segment", segment_of(part)},
                          {"ms", 1e3 * r.median.parts.of(part)},
                          {"model_flop", flop[p]}};
    for (const StepPhase phase : kPhases) row[kPhaseNames[static_cast<int>(phase)]] = 1e3 * r.median.parts.of(part, phase);
    parts.push_back(std::move(row));
  }
  nlohmann::json json = {{"parts", parts},
                         {"other_ms", 1e3 * r.other_seconds()},
                         {"checks", checks_json(r.checks)},
                         {"passed", r.passed()},
                         {"tokens_per_step", r.shape.num_tokens()},
                         {"micro_batches_per_step", r.num_micro_batches},
                         {"step_us", timing_json(r.seconds)},
                         {"phases",
                          {{"forward_ms", 1e3 * r.phase_seconds[0]},
                           {"backward_ms", 1e3 * r.phase_seconds[1]},
                           {"update_ms", 1e3 * r.phase_seconds[3]}}},
                         {"peaks", peaks_json(r.peaks)},
                         {"gemm_peak_gflops", r.gemm_peak()},
                         {"peak_rss_bytes", r.peak_rss_bytes},
                         {"device_bytes", r.device_bytes},
                         {"load_max_vio", r.max_vio}};
  if (!r.passed()) return json;
  json["tokens_per_second"] = r.tokens_per_second();
  json["gflops_causal"] = r.gflops(true);
  json["gflops_full_attention"] = r.gflops(false);
  json["percent_of_gemm_peak_causal"] = 100 * r.gflops(true) / r.gemm_peak();
  json["percent_of_gemm_peak_full_attention"] = 100 * r.gflops(false) / r.gemm_peak();
  return json;
}

}  // namespace moe
