#include "lib/run/train.h"

#include <cmath>
#include <cstdio>

#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/base/utf8.h"
#include "lib/comm/collectives.h"
#include "lib/run/compute.h"
#include "lib/run/generate.h"
#include "lib/run/gpu_comm.h"
#include "lib/run/mesh_load.h"
#include "lib/run/mesh_plan.h"
#include "lib/run/peak.h"
#include "lib/run/preset_list.h"
#include "lib/run/replan.h"
#include "lib/run/result.h"
#include "lib/run/resume.h"
#include "lib/run/run_output.h"
#include "lib/run/schedule.h"
#include "lib/run/stop_signal.h"
#include "lib/run/timeline.h"
#include "lib/run/train_evaluation.h"
#include "lib/run/train_inputs.h"
#include "lib/run/train_report.h"
#include "lib/run/train_saves.h"
#include "lib/run/train_trace.h"
#include "lib/run/unigram.h"

namespace moe {
namespace {

std::string machine_text(const World& world, const Stream& stream, const Kernels& kernels, double peak) {
  char text[320];
  if (!stream.is_cpu()) {
    const std::string ranks = world.alone() ? "" : ", " + std::to_string(world.size()) + " ranks";
    std::snprintf(text, sizeof text, "cuda, %s%s, GEMM peak %.0f GFLOP/s", stream.device().name, ranks.c_str(), peak);
    return text;
  }
  const std::string ranks = world.alone() ? "" : std::to_string(world.size()) + " ranks of ";
  std::snprintf(text, sizeof text, "cpu, %s%d %s, %s, GEMM peak %.0f GFLOP/s", ranks.c_str(), stream.num_threads(),
                stream.num_threads() == 1 ? "thread" : "threads", kernels.isa, peak);
  return text;
}

// All ranks at the same time, as in training.
double peak_of_all(World& world, Env env, DType dtype) {
  double peak = gemm_peak_gflops(env, dtype);
  if (!world.alone()) world.lane().call("peak", [&] { all_reduce_sum(world.comm(), "peak", std::span(&peak, 1)); });
  return peak;
}

// One run of moe-train on one rank: what it reads, the model, what it writes, and its counters. Every rank makes the same
// calls; rank 0 tells.
class TrainRun {
 public:
  TrainRun(TrainOptions& options, const Invocation& invocation, World& world)
      : o_(options),
        invocation_(invocation),
        world_(world),
        is_first_(world.rank() == 0),
        compute_(choose_compute(options.common, world)),
        stream_(compute_stream(compute_, options.common)),
        env_{stream_, compute_.kernels} {
    show_ranges(compute_, world);
    world.watchdog().watch_signal(StopSignal::terminated);
    world.start_watchdog(o_.ranks.watchdog);
    const CheckpointInfo* from = parent_checkpoint();
    const std::string checkpoint = from ? from->path + " " + from->digest : "none";
    if (!world.alone()) world.require_same({"checkpoint=" + checkpoint});
    world.agree([&] {
      inputs_ = std::make_unique<TrainInputs>(open_train_inputs(o_));
      mesh_options_ = choose_mesh(o_.ranks, world, o_.model, o_.common.dry_run);
    });
    if (!world.alone()) world.require_same({plan_fact(mesh_options_.plan)});
    mesh_options_.gpu_comm = choose_gpu_comm(o_.ranks.gpu_comm, world, compute_.device);
  }

  void describe() {
    const std::int64_t per_epoch = inputs_->data ? DataOrder(*inputs_->data, 0, o_.seq, false).samples_per_epoch() : 0;
    o_.steps = planned_steps(o_, per_epoch);
    summary_ = summarize(o_, mesh_options_, inputs_->data ? inputs_->data->info().num_tokens : 0, per_epoch, o_.steps,
                         memory_device());
    base_ = {summary_.flop_per_token, peak_of_all(world_, env_, o_.dtype), o_.seq};
    std::string text = summary_box(o_, summary_, machine_text(world_, stream_, env_.kernels, base_.gemm_peak_gflops));
    if (mesh_options_.shape.size() > 1) {
      const RankHosts hosts = rank_hosts(o_.ranks, world_, mesh_options_.shape);
      summary_.traffic = step_traffic(o_, mesh_options_, hosts.rank2node);
      text += "\n" + mesh_picture(mesh_options_, hosts, o_.model.num_experts, [&](const MeshPlace& place) {
                const ModelMemory memory = rank_memory(o_, mesh_options_, place, summary_.device);
                return static_cast<double>(summary_.device == DeviceKind::kCpu ? memory.total() : memory.on_gpu());
              });
      text += "\n" + traffic_text(*summary_.traffic);
    }
    if (!o_.common.dry_run || o_.common.json == "-")
      log_info(text);
    else if (is_first_)
      std::printf("%s\n", text.c_str());
  }

  void prepare() {
    on_ = make_mesh_model(world_, mesh_options_, o_, env_);
    trainer_ = std::make_unique<Trainer>(o_, model(), *inputs_->data, env_);
    if (o_.resume_from)
      resume();
    else if (o_.weights_from)
      start_from_weights();
    else
      model().initialize(o_.common.seed);
    if (!o_.resume_from) model().params().start_ema(stream_);
    world_.agree([&] {
      output_ = std::make_unique<RunOutput>(o_, invocation_, is_first_, parent_provenance(), inputs_->data->info(),
                                            o_.resume_from ? counters_.step : -1, model().moe_layers());
    });
    evaluation_ =
        std::make_unique<TrainEvaluation>(o_, inputs_->eval ? &*inputs_->eval : nullptr, summary_.micro_batch, world_, env_);
    saves_ = std::make_unique<TrainSaves>(o_, model(), *trainer_, *output_);
    if (!o_.router_trace.empty()) world_.agree([&] { trace_ = std::make_unique<TrainTrace>(o_, model(), *trainer_); });
    if (!o_.trace.empty())
      world_.agree([&] {
        const bool replaces = o_.common.force || o_.resume_from.has_value();
        timeline_ =
            std::make_unique<Timeline>(world_, TimelineOptions{o_.trace, o_.trace_steps, replaces}, about_timeline());
      });
  }

  // True if a signal ended it, on whichever rank. Rank 0's clock decides for all.
  bool loop(const StopSignal& stop) {
    std::unique_ptr<ProgressBar> bar = std::make_unique<ProgressBar>("train");
    clock_ = Stopwatch();
    run_seconds_ = counters_.seconds;
    bool stopped = false;
    for (double progress = run_progress(o_, counters_.step, run_seconds_); progress < 1 && !stopped;
         progress = run_progress(o_, counters_.step, run_seconds_)) {
      if (timeline_) timeline_->before_step(steps_here_ + 1);
      one_step(progress, stop);
      if (trace_) trace_->step_done(last_.step);
      stopped = last_.stop;
      const double now = run_progress(o_, counters_.step, run_seconds_);
      if (is_first_) tell(*bar, now);
      if (due(o_.eval_every) && now < 1)  // the end evaluates on everything
        evaluation_->evaluate_now(model(), o_.eval_tokens, moment(), *output_);
      saves_->step_done(last_);
      if (replanner_.due(counters_.step) && now < 1) replan();
      if (saves_->due(counters_.step)) saves_->begin(counters_now());
    }
    if (timeline_) timeline_->after_last_step();
    return stopped && run_progress(o_, counters_.step, run_seconds_) < 1;
  }

  Exit finish(bool stopped) {
    checkpoint_ = saves_->finish(counters_now());
    if (trace_) trace_->finish(provenance());
    if (stopped) {
      if (is_first_) {
        log_warning("stopped by a signal at step " + std::to_string(counters_.step) +
                    (checkpoint_.empty() ? "" : "; continue with --resume must"));
        write_result_json(o_.common.json, train_json(o_, report()));
      }
      return Exit::kStoppedEarly;
    }
    evaluation_->evaluate_now(model(), 0, moment(), *output_);
    evaluation_->evaluate_average(model(), moment(), *output_);
    output_->write_event({{"event", "end"}, {"step", counters_.step}});
    world_.agree([&] { picture_ = output_->draw(last_.layers, is_first_ ? unigram_entropy(*inputs_->data) : 0); });
    print_sample();
    write_summary_json();
    if (is_first_ && o_.common.json != "-") std::printf("%s\n", train_box(report()).c_str());
    if (timeline_) timeline_->finish();
    return Exit::kOk;
  }

  void write_summary_json() const {
    if (is_first_) write_result_json(o_.common.json, train_json(o_, report()));
  }

 private:
  TrainReport report() const {
    return {summary_,
            counters_,
            base_,
            last_.layers,
            tokens_of(last_, base_),
            last_.mtp_loss,
            evaluation_ ? evaluation_->last() : std::nullopt,
            evaluation_ ? evaluation_->of_average() : std::nullopt,
            steps_here_,
            tokens_here_,
            steps_seconds_,
            checkpoint_,
            picture_};
  }

  Model& model() { return *on_.model; }
  // Whose memory is told: a GPU's also where --dry-run --device cuda finds none.
  DeviceKind memory_device() const {
    return o_.common.device == DeviceChoice::kCuda ? DeviceKind::kCuda : stream_.device().kind;
  }
  double seconds() const { return counters_.seconds + clock_.seconds(); }
  bool due(std::int64_t every) const { return every > 0 && counters_.step % every == 0; }

  // What this run goes on from, or starts with; nullptr: from nothing.
  const CheckpointInfo* parent_checkpoint() const {
    return o_.resume_from ? &*o_.resume_from : o_.weights_from ? &*o_.weights_from : nullptr;
  }

  nlohmann::json parent_provenance() const { return parent_checkpoint() ? parent_checkpoint()->provenance : nullptr; }
  nlohmann::json provenance() const {
    return provenance_chain(invocation_, parent_provenance(),
                            {{inputs_->data->info().path, inputs_->data->info().fingerprint}});
  }
  nlohmann::json about_timeline() const {
    return {{"kind", "moe-timeline"},
            {"version", version_text()},
            {"ranks", world_.size()},
            {"steps", {o_.trace_steps.first + counters_.step, o_.trace_steps.last + counters_.step}},
            {"provenance", provenance()}};
  }

  // The rest is as in a new run: step 0, moments zero, the data from its beginning.
  void start_from_weights() {
    load_weights_on_mesh(model(), *o_.weights_from);
    log_info("weights of " + o_.weights_from->path + ", digest " + o_.weights_from->digest);
  }

  void resume() {
    counters_ = resume_on_mesh(model(), o_, invocation_.options, inputs_->data->info());
    trainer_->steps_done = counters_.step;
    trainer_->updates_done = counters_.updates;
    trainer_->consumed_samples = counters_.consumed_samples;
  }

  void one_step(double progress, const StopSignal& stop) {
    const StepNews news{.clock = [this] { return seconds(); },
                        .stop = [&stop] { return stop.received(); },
                        .busy = [this] { return saves_->busy(); }};
    last_ = trainer_->step(learning_rate(o_, counters_.step + 1, progress), news, progress);
    run_seconds_ = last_.run_seconds;
    counters_.step = last_.step;
    counters_.updates = trainer_->updates_done;
    counters_.consumed_samples = trainer_->consumed_samples;
    if (counters_.step == 1) counters_.first_loss = last_.loss;
    counters_.last_loss = last_.loss;
    steps_seconds_ += last_.seconds;
    ++steps_here_;
    tokens_here_ += tokens_of(last_, base_);
    output_->write_step(last_, base_, seconds());
    replanner_.add_step(last_);
    if (!last_.updated) handle_nonfinite();
    if (last_.updated) nonfinite_in_a_row_ = 0;
  }

  // Experts move where the routing since the last look wants them. A move that fails leaves everything as it was.
  void replan() {
    const std::vector<std::int64_t> pairs = output_->collect_coactivation(*trainer_);
    const auto decision = replanner_.decide(*on_.mesh, model().moe_layers(), pairs);
    if (!decision) return;
    const Stopwatch watch;
    saves_->newest();  // it reads this model
    MeshModel moved;
    try {
      moved = migrated(on_, decision->plan, o_, env_);
    } catch (const AgreedError& e) {
      if (is_first_) log_warning(std::string("experts stay where they are: ") + e.what());
      return;
    }
    auto trainer = std::make_unique<Trainer>(o_, *moved.model, *inputs_->data, env_);
    trainer->go_on_from(*trainer_);
    saves_->follow(*moved.model, *trainer);
    if (trace_) trace_->follow(*trainer);
    evaluation_->forget_model();
    trainer_ = std::move(trainer);
    on_ = std::move(moved);
    const std::string text = decision_text(*decision);
    log_info("step " + std::to_string(counters_.step) + ": " + text);
    output_->write_event({{"event", "replan"},
                          {"step", counters_.step},
                          {"moved", decision->num_moves},
                          {"max_over_mean", {decision->before, decision->after}},
                          {"inter_node_rows_per_token", {decision->rows_before, decision->rows_after}},
                          {"replan_ms", 1e3 * watch.seconds()}});
  }

  void handle_nonfinite() {
    ++counters_.skipped;
    ++nonfinite_in_a_row_;
    char text[160];
    std::snprintf(text, sizeof text, "step %lld: loss %g, gradient norm %g: not finite; update skipped",
                  static_cast<long long>(last_.step), last_.loss, last_.grad_norm);
    if (is_first_) log_warning(text);
    const std::string newest = saves_->newest();
    if (o_.nonfinite == NonFinite::kStop || nonfinite_in_a_row_ >= o_.nonfinite_limit)
      throw AgreedError(Exit::kNumeric, text,
                        "the newest checkpoint is from before; lower --lr or look at the data of this step", 0);
    if (o_.nonfinite == NonFinite::kRollback) roll_back(newest);
  }

  // Parameters and moments of the newest checkpoint; the data goes on, so that the samples at fault are left behind.
  void roll_back(const std::string& newest) {
    // Of this run: --output may hold older ones that --force is about to replace.
    const std::string from = !newest.empty() ? newest : o_.resume_from ? o_.resume_from->path : "";
    if (from.empty())
      throw AgreedError(Exit::kNumeric, "--nonfinite rollback: expected a checkpoint of this run, found none",
                        "set --save-every", 0);
    const Manifest manifest = manifest_on_mesh(world_, from);
    load_on_mesh(model(), manifest, from);
    trainer_->updates_done = counters_.updates = counters_of(manifest.state).updates;
    if (is_first_) log_warning("rolled back to " + from);
  }

  void tell(ProgressBar& bar, double progress) {
    const std::string line = step_line(last_, base_, o_.steps);
    bar.show(progress, line);
    const bool ends = progress >= 1, first = steps_here_ <= 3;
    const bool now = o_.log_every > 0 ? due(o_.log_every) : first || log_clock_.seconds() >= 2;
    if (!now && !ends) return;
    bar.hide();
    log_info(line);
    log_clock_ = Stopwatch();
  }

  TrainEvaluation::Moment moment() const { return {counters_.step, seconds()}; }

  // Counters of the state as it is now.
  const RunCounters& counters_now() {
    counters_.seconds = seconds();
    clock_ = Stopwatch();
    return counters_;
  }

  void print_sample() {
    if (o_.sample.empty()) return;
    const auto tokenizer = restore_tokenizer(inputs_->data->info().tokenizer, inputs_->data->info().tokenizer_model);
    if (!tokenizer)
      throw AgreedError(Exit::kBadInput, o_.data + ": --sample needs the tokenizer, and the file does not say which", "", 0);
    const Prompt prompt{.object = nullptr, .text = o_.sample, .tokens = tokenizer->encode(o_.sample)};
    if (prompt.tokens.empty())
      throw AgreedError(Exit::kUsage, "--sample: expected a prompt of at least one token, found an empty one", "", 0);
    const TextOptions how{.tokens = o_.sample_tokens, .sampling = {.temperature = o_.temperature}};
    const TextModel texts{.model = model(), .world = world_, .env = env_, .seq = o_.seq};
    const std::vector<TextMade> made = make_texts(texts, {{&prompt}}, how, o_.common.seed, *tokenizer);
    if (!is_first_) return;
    const std::string text = mended_utf8(prompt.text + made.front().text);
    std::fprintf(o_.common.json == "-" ? stderr : stdout, "%s\n", text.c_str());
  }

  TrainOptions& o_;
  const Invocation& invocation_;
  World& world_;
  bool is_first_;
  Compute compute_;
  Stream stream_;
  Env env_;
  std::unique_ptr<TrainInputs> inputs_;
  MeshOptions mesh_options_;
  RunSummary summary_;
  RateBase base_;
  MeshModel on_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<TrainEvaluation> evaluation_;
  std::unique_ptr<RunOutput> output_;
  std::unique_ptr<TrainSaves> saves_;
  std::unique_ptr<TrainTrace> trace_;
  std::unique_ptr<Timeline> timeline_;
  RunCounters counters_;
  Replanner replanner_{o_, counters_.counts_since_look_LE};
  StepResult last_;
  std::string checkpoint_, picture_;
  Stopwatch clock_, log_clock_;
  double steps_seconds_ = 0, run_seconds_ = 0;  // run_seconds_: rank 0's, on every rank
  std::int64_t steps_here_ = 0, tokens_here_ = 0;
  int nonfinite_in_a_row_ = 0;
};

}  // namespace

Exit train(TrainOptions& options, const Invocation& invocation, World& world) {
  if (options.list_presets) {
    if (world.rank() == 0) list_presets(options.common);
    return Exit::kOk;
  }
  TrainRun run(options, invocation, world);
  run.describe();
  if (options.common.dry_run) {
    run.write_summary_json();
    return Exit::kOk;
  }
  const StopSignal stop;  // from here on: a signal while a checkpoint is read also ends in 75
  run.prepare();
  const bool stopped = run.loop(stop);
  return run.finish(stopped);
}

}  // namespace moe
