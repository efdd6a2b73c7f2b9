#include "lib/run/train.h"

#include <cmath>
#include <cstdio>

#include "lib/base/log.h"
#include "lib/base/provenance.h"
#include "lib/base/stopwatch.h"
#include "lib/base/utf8.h"
#include "lib/comm/collectives.h"
#include "lib/run/evaluate.h"
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
#include "lib/run/train_report.h"
#include "lib/run/train_saves.h"
#include "lib/run/train_trace.h"
#include "lib/run/unigram.h"

namespace moe {
namespace {

// Vocabulary of the model from the data, if nobody chose one.
void fit_vocabulary(TrainOptions& o, const TokenSource* data) {
  const int needed = data ? data->info().vocab_size : 256;
  if (o.model.vocab_size == 0) o.model.vocab_size = needed;
  if (data && needed > o.model.vocab_size)
    throw Error(Exit::kBadInput, data->info().path + ": expected a vocabulary of at most " +
                                     std::to_string(o.model.vocab_size) + " (--vocab-size), found " +
                                     std::to_string(needed));
}

std::int64_t planned_steps(const TrainOptions& o, std::int64_t samples_per_epoch) {
  const bool by_data = o.epochs > 0 && samples_per_epoch > 0;
  const std::int64_t by_epochs = by_data ? std::max<std::int64_t>(1, steps_of_samples(o, o.epochs * samples_per_epoch)) : 0;
  if (by_epochs == 0) return o.steps;
  return o.steps == 0 ? by_epochs : std::min(o.steps, by_epochs);
}

std::string machine_text(const World& world, const Stream& stream, const Kernels& kernels, double peak) {
  char text[120];
  const std::string ranks = world.alone() ? "" : std::to_string(world.size()) + " ranks of ";
  std::snprintf(text, sizeof text, "cpu, %s%d %s, %s, GEMM peak %.0f GFLOP/s", ranks.c_str(), stream.num_threads(),
                stream.num_threads() == 1 ? "thread" : "threads", kernels.isa, peak);
  return text;
}

// All ranks at the same time, as in training.
double peak_of_all(World& world, Env env) {
  double peak = gemm_peak_gflops(env);
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
        stream_(options.common.threads),
        env_{stream_, cpu_kernels()} {
    world.watchdog().watch_signal(StopSignal::terminated);
    world.start_watchdog(o_.ranks.watchdog);
    const CheckpointInfo* from = parent_checkpoint();
    const std::string checkpoint = from ? from->path + " " + from->digest : "none";
    if (!world.alone()) world.require_same({"checkpoint=" + checkpoint});
    world.agree([&] {
      open_inputs();
      mesh_options_ = choose_mesh(o_.ranks, world, o_.model, o_.common.dry_run);
    });
    if (!world.alone()) world.require_same({plan_fact(mesh_options_.plan)});
  }

  void describe() {
    const std::int64_t per_epoch = data_ ? DataOrder(*data_, 0, o_.seq, false).samples_per_epoch() : 0;
    o_.steps = planned_steps(o_, per_epoch);
    summary_ = summarize(o_, mesh_options_, data_ ? data_->info().num_tokens : 0, per_epoch, o_.steps);
    base_ = {summary_.flop_per_token, peak_of_all(world_, env_), o_.seq};
    std::string text = summary_box(o_, summary_, machine_text(world_, stream_, env_.kernels, base_.gemm_peak_gflops));
    if (mesh_options_.shape.size() > 1) {
      const RankHosts hosts = rank_hosts(o_.ranks, world_, mesh_options_.shape);
      summary_.traffic = step_traffic(o_, mesh_options_, hosts.rank2node);
      text += "\n" + mesh_picture(mesh_options_, hosts, o_.model.num_experts, [&](const MeshPlace& place) {
                return static_cast<double>(rank_memory(o_, mesh_options_, place).total());
              });
      text += "\n" + traffic_text(*summary_.traffic);
    }
    if (!o_.common.dry_run || o_.common.json == "-")
      log_info(text);
    else if (is_first_)
      std::printf("%s\n", text.c_str());
  }

  void prepare() {
    on_ = make_mesh_model(world_, mesh_options_, o_, env_.kernels);
    trainer_ = std::make_unique<Trainer>(o_, model(), *data_, env_);
    if (o_.resume_from)
      resume();
    else if (o_.weights_from)
      start_from_weights();
    else
      model().initialize(o_.common.seed);
    if (!o_.resume_from) model().params().start_ema();
    world_.agree([&] {
      output_ = std::make_unique<RunOutput>(o_, invocation_, is_first_, parent_provenance(), data_->info(),
                                            o_.resume_from ? counters_.step : -1, model().moe_layers());
    });
    saves_ = std::make_unique<TrainSaves>(o_, model(), *trainer_, *output_);
    if (!o_.router_trace.empty()) world_.agree([&] { trace_ = std::make_unique<TrainTrace>(o_, model(), *trainer_); });
  }

  // True if a signal ended it, on whichever rank. Rank 0's clock decides for all.
  bool loop(const StopSignal& stop) {
    std::unique_ptr<ProgressBar> bar = std::make_unique<ProgressBar>("train");
    clock_ = Stopwatch();
    run_seconds_ = counters_.seconds;
    bool stopped = false;
    for (double progress = run_progress(o_, counters_.step, run_seconds_); progress < 1 && !stopped;
         progress = run_progress(o_, counters_.step, run_seconds_)) {
      one_step(progress, stop);
      if (trace_) trace_->step_done(last_.step);
      stopped = last_.stop;
      const double now = run_progress(o_, counters_.step, run_seconds_);
      if (is_first_) tell(*bar, now);
      if (due(o_.eval_every) && now < 1) evaluate_now(o_.eval_tokens);  // the end evaluates on everything
      saves_->step_done(last_);
      if (replanner_.due(counters_.step) && now < 1) replan();
      if (saves_->due(counters_.step)) saves_->begin(counters_now());
    }
    return stopped && run_progress(o_, counters_.step, run_seconds_) < 1;
  }

  Exit finish(bool stopped) {
    checkpoint_ = saves_->finish(counters_now());
    if (trace_)
      trace_->finish(provenance_chain(invocation_, parent_provenance(), {{data_->info().path, data_->info().fingerprint}}));
    if (stopped) {
      if (is_first_) {
        log_warning("stopped by a signal at step " + std::to_string(counters_.step) +
                    (checkpoint_.empty() ? "" : "; continue with --resume must"));
        write_result_json(o_.common.json, train_json(o_, report()));
      }
      return Exit::kStoppedEarly;
    }
    if (eval_) evaluate_now(0);
    if (eval_) evaluate_average();
    output_->write_event({{"event", "end"}, {"step", counters_.step}});
    world_.agree([&] { picture_ = output_->draw(last_.layers, is_first_ ? unigram_entropy(*data_) : 0); });
    print_sample();
    if (!is_first_) return Exit::kOk;
    write_result_json(o_.common.json, train_json(o_, report()));
    if (o_.common.json != "-") std::printf("%s\n", train_box(report()).c_str());
    return Exit::kOk;
  }

  void write_summary_json() const {
    if (is_first_) write_result_json(o_.common.json, train_json(o_, report()));
  }

 private:
  TrainReport report() const {
    return {summary_,       counters_,   base_,           last_.layers, tokens_of(last_, base_),
            last_.mtp_loss, evaluation_, ema_evaluation_, steps_here_,  tokens_here_,
            steps_seconds_, checkpoint_, picture_};
  }

  void open_inputs() {
    if (o_.data.empty() && !o_.common.dry_run)
      throw Error(Exit::kUsage, "--data: expected a token file or a text, found none", "moe-train --data text.txt");
    if (!o_.data.empty()) data_.emplace(TokenSource::open(o_.data));
    if (!o_.eval_data.empty()) eval_.emplace(TokenSource::open(o_.eval_data));
    fit_vocabulary(o_, data_ ? &*data_ : nullptr);
    check_config(o_.model);
    if (eval_ && eval_->info().num_tokens < 2)
      throw Error(Exit::kBadInput,
                  o_.eval_data + ": expected at least 2 tokens, found " + std::to_string(eval_->info().num_tokens));
    if (eval_ && eval_->info().vocab_size > o_.model.vocab_size)
      throw Error(Exit::kBadInput, o_.eval_data + ": vocabulary of " + std::to_string(eval_->info().vocab_size) +
                                       " is larger than the model's " + std::to_string(o_.model.vocab_size));
  }

  Model& model() { return *on_.model; }
  double seconds() const { return counters_.seconds + clock_.seconds(); }
  bool due(std::int64_t every) const { return every > 0 && counters_.step % every == 0; }

  // What this run goes on from, or starts with; nullptr: from nothing.
  const CheckpointInfo* parent_checkpoint() const {
    return o_.resume_from ? &*o_.resume_from : o_.weights_from ? &*o_.weights_from : nullptr;
  }

  nlohmann::json parent_provenance() const { return parent_checkpoint() ? parent_checkpoint()->provenance : nullptr; }

  // The rest is as in a new run: step 0, moments zero, the data from its beginning.
  void start_from_weights() {
    load_weights_on_mesh(model(), *o_.weights_from);
    log_info("weights of " + o_.weights_from->path + ", digest " + o_.weights_from->digest);
  }

  void resume() {
    counters_ = resume_on_mesh(model(), o_, invocation_.options, data_->info());
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
      moved = migrated(on_, decision->plan, o_, env_.kernels);
    } catch (const AgreedError& e) {
      if (is_first_) log_warning(std::string("experts stay where they are: ") + e.what());
      return;
    }
    auto trainer = std::make_unique<Trainer>(o_, *moved.model, *data_, env_);
    trainer->go_on_from(*trainer_);
    saves_->follow(*moved.model, *trainer);
    if (trace_) trace_->follow(*trainer);
    eval_pass_.reset();
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

  void evaluate_now(std::int64_t max_tokens) {
    if (!eval_) return;
    if (!eval_pass_)
      eval_pass_ = std::make_unique<Pass>(
          model(), PassOptions{.shape = {summary_.micro_batch, o_.seq}, .training = false, .num_modules = 1}, env_);
    evaluation_ = evaluate(*eval_pass_, world_, *eval_, o_.document_mask, max_tokens);
    tell_evaluation("eval ", "eval_loss", *evaluation_);
  }

  void tell_evaluation(const char* what, const char* key, const Evaluation& e) {
    const SecondTokens& second = e.second_tokens;
    char text[160], accepted[48] = "";
    if (second.num_judged > 0)
      std::snprintf(accepted, sizeof accepted, "  second tokens accepted %.1f %%", 100 * second.acceptance());
    std::snprintf(text, sizeof text, "%s step %lld  loss %.4f  over %lld tokens%s  %.1f s", what,
                  static_cast<long long>(counters_.step), e.loss, static_cast<long long>(e.num_tokens), accepted, e.seconds);
    log_info(text);
    nlohmann::json row = {{"step", counters_.step}, {key, e.loss}, {"eval_tokens", e.num_tokens}, {"seconds", seconds()}};
    if (second.num_judged > 0) row["second_token_acceptance"] = second.acceptance();
    output_->write_event(row);
  }

  // The moving average takes the place of the parameters meanwhile. Nobody saves or trains.
  void evaluate_average() {
    if (!model().params().state().ema) return;
    model().params().swap_ema();
    model().units().weights_changed();
    ema_evaluation_ = evaluate(*eval_pass_, world_, *eval_, o_.document_mask, 0);
    model().params().swap_ema();
    model().units().weights_changed();
    tell_evaluation("eval of the moving average ", "ema_eval_loss", *ema_evaluation_);
  }

  // Counters of the state as it is now.
  const RunCounters& counters_now() {
    counters_.seconds = seconds();
    clock_ = Stopwatch();
    return counters_;
  }

  void print_sample() {
    if (o_.sample.empty()) return;
    const auto tokenizer = restore_tokenizer(data_->info().tokenizer, data_->info().tokenizer_model);
    if (!tokenizer)
      throw AgreedError(Exit::kBadInput, o_.data + ": --sample needs the tokenizer, and the file does not say which", "", 0);
    Pass pass(model(), {.shape = {1, o_.seq}, .training = false}, env_);
    const SampleOptions how{.num_tokens = o_.sample_tokens, .temperature = o_.temperature, .seed = o_.common.seed};
    sample_ = sample_text(pass, world_, *tokenizer, o_.sample, how);
    if (is_first_) std::fprintf(o_.common.json == "-" ? stderr : stdout, "%s\n", mended_utf8(sample_).c_str());
  }

  TrainOptions& o_;
  const Invocation& invocation_;
  World& world_;
  bool is_first_;
  Stream stream_;
  Env env_;
  std::optional<TokenSource> data_, eval_;
  MeshOptions mesh_options_;
  RunSummary summary_;
  RateBase base_;
  MeshModel on_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Pass> eval_pass_;
  std::unique_ptr<RunOutput> output_;
  std::unique_ptr<TrainSaves> saves_;
  std::unique_ptr<TrainTrace> trace_;
  RunCounters counters_;
  Replanner replanner_{o_, counters_.counts_since_look_LE};
  StepResult last_;
  std::optional<Evaluation> evaluation_, ema_evaluation_;
  std::string checkpoint_, picture_, sample_;
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
