// `moe-bench step`: whole training steps on random tokens, with the time of each part. Not here: the report
// (bench_step_report.cpp), the clock (kernel_clock.h).
#include "lib/run/bench_step.h"

#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>

#include "lib/base/provenance.h"
#include "lib/base/rng.h"
#include "lib/base/stopwatch.h"
#include "lib/model/load_metrics.h"
#include "lib/model/params.h"
#include "lib/run/bench.h"
#include "lib/run/bench_measure.h"
#include "lib/run/global_batch.h"
#include "lib/run/peak.h"
#include "lib/run/result.h"
#include "lib/tensor/phase_clock.h"

namespace moe {
namespace {

double peak_rss_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return 1024.0 * static_cast<double>(usage.ru_maxrss);
}

class StepRun {
 public:
  StepRun(const BenchOptions& options, const Compute& compute)
      : o_(options),
        stream_(compute.device, options.common.threads, compute.kernels),
        timed_(timed_kernels(compute.kernels)),
        model_(options.model, options.dtype, true, compute.kernels, compute.device),
        cut_{.batch = options.batch, .micro_batch = options.micro_batch, .seq = options.seq},
        pass_(model_,
              {.shape = {cut_.micro_batch_per_rank(), options.seq},
               .recompute = options.recompute,
               .balance = options.balance},
              {stream_, timed_}),
        tensors_(model_.params().adamw_tensors(0.1f)),
        tokens_(compute.device) {
    const auto T = static_cast<std::size_t>(options.batch_shape().num_tokens());
    const auto room = tokens_.of<std::int32_t>(2 * T);
    id_T_ = room.first(T), target_T_ = room.last(T);
    stream_.know_weights(model_.params());
    model_.initialize(options.common.seed);
  }

  Env plain_env() { return {stream_, stream_.original()}; }

  // Steps until `seconds` of measured ones have passed, at least three, after two that are not measured.
  void run(double seconds) {
    constexpr int kWarmUp = 2, kFewest = 3;
    for (int i = 0; i < kWarmUp; ++i) step();
    samples_.clear();
    const WaitClock wait(stream_.num_threads());
    const Stopwatch clock;
    while (static_cast<int>(samples_.size()) < kFewest || clock.seconds() < seconds) step();
    waited_ = wait.fraction();
    if (stream_.is_running()) return;
    for (const bool warm : {false, true}) take_parts(warm);
  }

  void report(StepReport& r) {
    r.num_micro_batches = cut_.num_micro_batches();
    std::vector<double> seconds;
    for (const StepSample& s : samples_) seconds.push_back(s.seconds);
    r.seconds = timing_of(seconds);
    r.seconds.waited = waited_;
    std::sort(samples_.begin(), samples_.end(),
              [](const StepSample& a, const StepSample& b) { return a.seconds < b.seconds; });
    r.phase_seconds = samples_[samples_.size() / 2].phase_seconds;
    r.median = parts_.seconds > 0 ? parts_ : samples_[samples_.size() / 2];
    r.device_bytes = device_bytes_;
    r.max_vio = mean_max_vio();
    const double want = expected_first_loss(o_.model), slack = o_.model.tied_embeddings ? 0.5 : 0.1;
    constexpr double kMax = std::numeric_limits<double>::max();
    r.checks = {{"first_loss_near_ln_vocab", first_loss_, want - slack, want + slack},
                {"largest_loss_is_finite", largest_loss_.value(), 0, kMax},
                {"largest_gradient_norm_is_finite", largest_norm_.value(), 0, kMax},
                {"routed_rows_per_step", routed_rows(), wanted_rows(), wanted_rows()}};
  }

 private:
  // A step with the clock running, where marks around each kernel would change the time of the step itself.
  void take_parts(bool keep) {
    stream_.run_clock(true);
    step();
    stream_.run_clock(false);
    if (keep) parts_ = samples_.back();
    samples_.pop_back();
  }

  void fill_batch() {
    const Rng rng(o_.common.seed, "bench tokens");
    for (std::int32_t* ids : {id_T_.data(), target_T_.data()})
      for (std::size_t i = 0; i < id_T_.size(); ++i)
        ids[i] = static_cast<std::int32_t>(rng.bits(num_drawn_++) % static_cast<std::uint64_t>(o_.model.vocab_size));
  }

  MicroBatch micro_batch(int i, std::span<const double> mtp_scale) const {
    const BatchCut::Range range = cut_.range(i);
    const BatchShape shape{range.count, o_.seq};
    const auto at = static_cast<std::size_t>(range.first) * static_cast<std::size_t>(o_.seq);
    const auto T = static_cast<std::size_t>(shape.num_tokens());
    return {.shape = shape,
            .id_T = id_T_.subspan(at, T),
            .target_T = target_T_.subspan(at, T),
            .loss_scale = 1 / static_cast<double>(id_T_.size()),
            .share = static_cast<float>(range.count) / static_cast<float>(o_.batch),
            .last_of_step = i + 1 == cut_.num_micro_batches(),
            .mtp_scale_D = mtp_scale};
  }

  void end_of(StepPhase phase) { clock_.lap(static_cast<std::size_t>(phase)); }

  // What Trainer::step does, on random tokens and without clipping.
  void step() {
    fill_batch();
    pass_.reset_tallies();
    stream_.take_times();
    const double T = static_cast<double>(id_T_.size());
    const std::vector<double> mtp_scale(static_cast<std::size_t>(pass_.num_modules()), 0.3 / T);
    StepSample sample;
    const Stopwatch whole;
    clock_.start();
    for (int i = 0; i < cut_.num_micro_batches(); ++i) {
      const MicroBatch batch = micro_batch(i, mtp_scale);
      stream_.set_phase(StepPhase::kForward);
      pass_.forward(batch);
      end_of(StepPhase::kForward);
      stream_.set_phase(StepPhase::kBackwardInput);
      pass_.backward(batch);
      end_of(StepPhase::kBackwardInput);
    }
    stream_.set_phase(StepPhase::kUpdate);
    update();
    end_of(StepPhase::kUpdate);
    stream_.synchronize();
    sample.seconds = whole.seconds();
    clock_.waited();
    std::ranges::copy(clock_.take(0), sample.phase_seconds.begin());
    pass_.pull_tallies();
    sample.parts = stream_.take_times();
    const double loss = pass_.losses_pulled().front() / T;
    if (num_updates_ == 1) first_loss_ = loss;
    largest_loss_.add(loss, 0, 1);
    samples_.push_back(sample);
    std::size_t used = 0, total = 0;
    if (!stream_.is_cpu()) stream_.device().memory(&used, &total);
    device_bytes_ = std::max(device_bytes_, static_cast<double>(used));
  }

  void update() {
    std::vector<std::span<const float>> gradients;
    for (const AdamWTensor& t : tensors_) gradients.emplace_back(t.g, static_cast<std::size_t>(t.n));
    squares_.zero();
    timed_.adamw.sum_of_squares(stream_, gradients, squares_.data());
    largest_norm_.add(std::sqrt(squares_.wait()), 0, 1);
    timed_.adamw.step(stream_, tensors_, {.lr = 3e-4f, .step = ++num_updates_});
  }

  double mean_max_vio() {
    double sum = 0;
    for (const int layer : model_.moe_layers())
      sum += load_metrics(pass_.tallies()[static_cast<std::size_t>(layer)].counts_E).max_vio;
    return model_.moe_layers().empty() ? 0 : sum / static_cast<double>(model_.moe_layers().size());
  }
  double routed_rows() {
    std::int64_t rows = 0;
    for (const int layer : model_.moe_layers())
      for (const std::int64_t n : pass_.tallies()[static_cast<std::size_t>(layer)].counts_E) rows += n;
    return static_cast<double>(rows);
  }
  double wanted_rows() const { return static_cast<double>(id_T_.size()) * o_.model.top_k * o_.model.num_moe_layers(); }

  const BenchOptions& o_;
  ClockedStream stream_;
  Kernels timed_;
  Model model_;
  BatchCut cut_;
  Pass pass_;
  std::vector<AdamWTensor> tensors_;
  DeviceNumber squares_{stream_};
  PhaseClock clock_{stream_, kNumStepPhases};
  HostRoom tokens_;
  std::span<std::int32_t> id_T_, target_T_;  // of a step
  std::uint64_t num_drawn_ = 0;
  std::int64_t num_updates_ = 0;
  double first_loss_ = 0, waited_ = 0, device_bytes_ = 0;
  WorstDeviation largest_loss_, largest_norm_;
  std::vector<StepSample> samples_;
  StepSample parts_;  // of take_parts()
};

std::vector<std::string> head_lines(const BenchOptions& o) {
  const ModelConfig& c = o.model;
  const ParamCounts n = count_parameters(c);
  const std::string micro = o.micro_batch > 0 ? " in micro-batches of " + std::to_string(o.micro_batch) : "";
  char text[340];
  std::snprintf(
      text, sizeof text,
      "# model: d %d, %d layers, %d heads of %d (%d kv), %d experts top-%d of width %d, vocab %d, %d x %d tokens%s, %s; "
      "%.2f M parameters, %.2f M active",
      c.d_model, c.num_layers, c.num_heads, c.head_dim, c.num_kv_heads, c.num_experts, c.top_k, c.expert_ffn, c.vocab_size,
      o.batch, o.seq, micro.c_str(), name_of(o.dtype), static_cast<double>(n.total) * 1e-6,
      static_cast<double>(n.active) * 1e-6);
  return {"# moe-bench step --shape " + o.shape + ": forward, backward, AdamW on random tokens", text};
}

// The peaks of the run: on the CPU before and after the steps, as its clock moves.
void run_and_report(const BenchOptions& o, StepRun& run, StepReport& report) {
  const Env env = run.plain_env();
  if (!env.stream.is_cpu()) report.peaks = measure_peaks(env, o.dtype);
  const double gemm_before = env.stream.is_cpu() ? gemm_peak_gflops(env, o.dtype, 0.25) : report.peaks.gemm_gflops;
  run.run(o.seconds > 0 ? o.seconds : 5);
  report.peak_rss_bytes = peak_rss_bytes();  // before the buffers of the memory peaks count too
  run.report(report);
  if (!env.stream.is_cpu()) return;
  report.gemm_peak_after = gemm_peak_gflops(env, o.dtype, 0.25);
  report.peaks = measure_peaks(env, o.dtype);
  report.peaks.gemm_gflops = gemm_before;
}

}  // namespace

Exit bench_step(const BenchOptions& o, const Compute& compute) {
  std::FILE* out = table_file(o);
  const auto print = [out](const std::vector<std::string>& lines) {
    for (const std::string& line : lines) std::fprintf(out, "%s\n", line.c_str());
    std::fflush(out);
  };
  print(head_lines(o));
  if (o.common.dry_run) return Exit::kOk;
  StepReport report{.model = o.model, .shape = o.batch_shape()};
  StepRun run(o, compute);
  run_and_report(o, run, report);
  print(machine_lines(run.plain_env(), report.peaks));
  print(step_lines(report));
  nlohmann::json json = step_json(report);
  json.update(bench_json("step"));
  json["shape"] = o.shape;
  json["dtype"] = name_of(o.dtype);
  json["layers"] = o.model.num_layers;
  json["machine"] = machine_json(run.plain_env());
  write_result_json(o.common.json, json);
  return report.passed() ? Exit::kOk : Exit::kCheckFailed;
}

}  // namespace moe
