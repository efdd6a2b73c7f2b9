#include "lib/run/train.h"

#include <cmath>
#include <cstdio>

#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/io/files.h"
#include "lib/run/evaluate.h"
#include "lib/run/peak.h"
#include "lib/run/result.h"
#include "lib/run/run_output.h"
#include "lib/run/schedule.h"
#include "lib/run/stop_signal.h"
#include "lib/run/summary.h"
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
  const std::int64_t by_epochs = by_data ? std::max<std::int64_t>(1, o.epochs * samples_per_epoch / o.batch) : 0;
  if (by_epochs == 0) return o.steps;
  return o.steps == 0 ? by_epochs : std::min(o.steps, by_epochs);
}

std::string machine_text(const Stream& stream, const Kernels& kernels, double peak) {
  char text[100];
  std::snprintf(text, sizeof text, "cpu, %d threads, %s, GEMM peak %.0f GFLOP/s", stream.num_threads(), kernels.isa, peak);
  return text;
}

// One run of moe-train: what it reads, the model, what it writes, and its counters.
class TrainRun {
 public:
  TrainRun(TrainOptions& options, const Invocation& invocation)
      : o_(options), invocation_(invocation), stream_(options.common.threads), env_{stream_, cpu_kernels()} {
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

  void describe() {
    const std::int64_t per_epoch = data_ ? DataOrder(*data_, 0, o_.seq, false).samples_per_epoch() : 0;
    o_.steps = planned_steps(o_, per_epoch);
    summary_ = summarize(o_, data_ ? data_->info().num_tokens : 0, per_epoch, o_.steps);
    base_ = {summary_.flop_per_token, gemm_peak_gflops(env_), summary_.tokens_per_step};
    const std::string box = summary_box(o_, summary_, machine_text(stream_, env_.kernels, base_.gemm_peak_gflops));
    if (o_.common.dry_run && o_.common.json != "-")
      std::printf("%s\n", box.c_str());
    else
      log_info(box);
  }

  void prepare() {
    if (!data_)
      throw Error(Exit::kUsage, "--data: expected a token file or a text, found none", "moe-train --data text.txt");
    model_ = std::make_unique<Model>(o_.model, o_.dtype, true);
    trainer_ = std::make_unique<Trainer>(o_, *model_, *data_, env_);
    if (o_.resume_from)
      resume();
    else
      model_->initialize(o_.common.seed);
    output_ = std::make_unique<RunOutput>(o_, invocation_, o_.resume_from ? o_.resume_from->provenance : nullptr,
                                          data_->info(), o_.resume_from ? counters_.step : -1, model_->moe_layers());
  }

  // True if a signal ended it.
  bool loop(const StopSignal& stop) {
    std::unique_ptr<ProgressBar> bar = std::make_unique<ProgressBar>("train");
    double progress = run_progress(o_, counters_.step, counters_.seconds);
    for (clock_ = Stopwatch(); progress < 1 && !stop.received(); progress = run_progress(o_, counters_.step, seconds())) {
      one_step(progress);
      const double now = run_progress(o_, counters_.step, seconds());
      tell(*bar, now);
      if (due(o_.eval_every) && now < 1) evaluate_now(o_.eval_tokens);  // the end evaluates on everything
      if (due(o_.save_every)) save();
    }
    return progress < 1;
  }

  Exit finish(bool stopped) {
    checkpoint_ = save();
    if (stopped) {
      log_warning("stopped by a signal at step " + std::to_string(counters_.step) +
                  (checkpoint_.empty() ? "" : "; continue with --resume must"));
      write_result_json(o_.common.json, result());
      return Exit::kStoppedEarly;
    }
    if (eval_) evaluate_now(0);
    output_->write_event({{"event", "end"}, {"step", counters_.step}});
    picture_ = output_->draw(last_.layers, unigram_entropy(*data_));
    print_sample();
    write_result_json(o_.common.json, result());
    if (o_.common.json != "-") print_result();
    return Exit::kOk;
  }

  nlohmann::json result() const {
    nlohmann::json r = summary_json(summary_);
    r["steps"] = counters_.step;
    if (counters_.step > 0) {
      r["first_loss"] = counters_.first_loss;
      r["train_loss"] = counters_.last_loss;
      r["train_seconds"] = counters_.seconds;
      r["tokens_per_second"] =
          steps_seconds_ > 0 ? static_cast<double>(steps_here_ * base_.tokens_per_step) / steps_seconds_ : 0;
      r["gemm_peak_gflops"] = base_.gemm_peak_gflops;
      r["skipped_updates"] = counters_.skipped;
    }
    if (evaluation_) r["eval_loss"] = evaluation_->loss;
    if (!checkpoint_.empty()) r["checkpoint"] = checkpoint_;
    if (!picture_.empty()) r["picture"] = picture_;
    for (const LayerResult& l : last_.layers) {
      nlohmann::json load = nlohmann::json::array();
      const double slots = static_cast<double>(base_.tokens_per_step) * o_.model.top_k;
      for (std::int64_t c : l.counts_E)
        load.push_back(static_cast<double>(c) * static_cast<double>(l.counts_E.size()) / slots);
      r["layers"].push_back({{"layer", l.layer}, {"max_vio", l.load.max_vio}, {"dead", l.load.dead}, {"load", load}});
    }
    return r;
  }

  void write_summary_json() const { write_result_json(o_.common.json, result()); }

 private:
  double seconds() const { return counters_.seconds + clock_.seconds(); }
  bool due(std::int64_t every) const { return every > 0 && counters_.step % every == 0; }

  void resume() {
    const CheckpointInfo& from = *o_.resume_from;
    for (const std::string& line : resume_differences(invocation_.options, from.state)) log_info("resume: " + line);
    const std::string before = from.state.at("data").at("fingerprint");
    if (before != data_->info().fingerprint && !o_.allow_data_change)
      throw Error(Exit::kBadInput,
                  o_.data + ": expected the data of the checkpoint (" + before + "), found " + data_->info().fingerprint,
                  "give the same data, or --allow-data-change");
    load_checkpoint(from, state_slices(*model_, true));
    counters_ = counters_of(from.state);
    trainer_->steps_done = counters_.step;
    trainer_->updates_done = counters_.updates;
    trainer_->consumed_samples = counters_.consumed_samples;
    log_info("resumed " + from.path + " at step " + std::to_string(counters_.step));
  }

  void one_step(double progress) {
    last_ = trainer_->step(learning_rate(o_, counters_.step + 1, progress));
    counters_.step = last_.step;
    counters_.updates = trainer_->updates_done;
    counters_.consumed_samples = trainer_->consumed_samples;
    if (counters_.step == 1) counters_.first_loss = last_.loss;
    counters_.last_loss = last_.loss;
    steps_seconds_ += last_.seconds;
    ++steps_here_;
    output_->write_step(last_, base_, seconds(), trainer_->last_tallies());
    if (!last_.updated) handle_nonfinite();
    if (last_.updated) nonfinite_in_a_row_ = 0;
  }

  void handle_nonfinite() {
    ++counters_.skipped;
    ++nonfinite_in_a_row_;
    char text[160];
    std::snprintf(text, sizeof text, "step %lld: loss %g, gradient norm %g: not finite; update skipped",
                  static_cast<long long>(last_.step), last_.loss, last_.grad_norm);
    log_warning(text);
    if (o_.nonfinite == NonFinite::kStop || nonfinite_in_a_row_ >= o_.nonfinite_limit)
      throw Error(Exit::kNumeric, text, "the newest checkpoint is from before; lower --lr or look at the data of this step");
    if (o_.nonfinite == NonFinite::kRollback) roll_back();
  }

  // Parameters and moments of the newest checkpoint; the data goes on, so that the samples at fault are left behind.
  void roll_back() {
    // Of this run: --output may hold older ones that --force is about to replace.
    const std::string from = !checkpoint_.empty() ? checkpoint_ : o_.resume_from ? o_.resume_from->path : "";
    if (from.empty())
      throw Error(Exit::kNumeric, "--nonfinite rollback: expected a checkpoint of this run, found none", "set --save-every");
    const CheckpointInfo info = open_checkpoint(from);
    load_checkpoint(info, state_slices(*model_, true));
    trainer_->updates_done = counters_.updates = counters_of(info.state).updates;
    log_warning("rolled back to " + info.path);
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
      eval_pass_ = std::make_unique<Pass>(*model_, PassOptions{.shape = {o_.micro_batch, o_.seq}, .training = false}, env_);
    evaluation_ = evaluate(*eval_pass_, *eval_, o_.document_mask, max_tokens);
    char text[120];
    std::snprintf(text, sizeof text, "eval  step %lld  loss %.4f  over %lld tokens  %.1f s",
                  static_cast<long long>(counters_.step), evaluation_->loss, static_cast<long long>(evaluation_->num_tokens),
                  evaluation_->seconds);
    log_info(text);
    output_->write_event({{"step", counters_.step},
                          {"eval_loss", evaluation_->loss},
                          {"eval_tokens", evaluation_->num_tokens},
                          {"seconds", seconds()}});
  }

  std::string save() {
    if (saved_step_ == counters_.step) return checkpoint_;
    RunCounters c = counters_;
    c.seconds = seconds();
    counters_.seconds = c.seconds;
    clock_ = Stopwatch();
    const Stopwatch watch;
    checkpoint_ = output_->save(*model_, c);
    output_->write_event({{"event", "checkpoint"}, {"step", c.step}, {"checkpoint_ms", 1e3 * watch.seconds()}});
    saved_step_ = counters_.step;
    return checkpoint_;
  }

  void print_sample() {
    if (o_.sample.empty()) return;
    const auto tokenizer = restore_tokenizer(data_->info().tokenizer, data_->info().tokenizer_model);
    if (!tokenizer)
      throw Error(Exit::kBadInput, o_.data + ": --sample needs the tokenizer, and the file does not say which");
    Pass pass(*model_, {.shape = {1, o_.seq}, .training = false}, env_);
    const SampleOptions how{.num_tokens = o_.sample_tokens, .temperature = o_.temperature, .seed = o_.common.seed};
    sample_ = sample_text(pass, *tokenizer, o_.sample, how);
    std::fprintf(o_.common.json == "-" ? stderr : stdout, "%s\n", sample_.c_str());
  }

  void print_result() const {
    std::vector<std::pair<std::string, std::string>> rows;
    char text[160];
    std::snprintf(text, sizeof text, "%.4f -> %.4f nats per token", counters_.first_loss, counters_.last_loss);
    rows.push_back({"train loss", text});
    if (evaluation_)
      std::snprintf(text, sizeof text, "%.4f over %lld tokens", evaluation_->loss,
                    static_cast<long long>(evaluation_->num_tokens)),
          rows.push_back({"eval loss", text});
    std::snprintf(text, sizeof text, "%lld in %.1f s, %.0f tokens/s", static_cast<long long>(counters_.step),
                  counters_.seconds,
                  steps_seconds_ > 0 ? static_cast<double>(steps_here_ * base_.tokens_per_step) / steps_seconds_ : 0.0);
    rows.push_back({"steps", text});
    if (!checkpoint_.empty()) rows.push_back({"checkpoint", checkpoint_});
    if (!picture_.empty()) rows.push_back({"picture", picture_});
    std::printf("%s\n", boxed("result", rows).c_str());
  }

  TrainOptions& o_;
  const Invocation& invocation_;
  Stream stream_;
  Env env_;
  std::optional<TokenSource> data_, eval_;
  RunSummary summary_;
  RateBase base_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Pass> eval_pass_;
  std::unique_ptr<RunOutput> output_;
  RunCounters counters_;
  StepResult last_;
  std::optional<Evaluation> evaluation_;
  std::string checkpoint_, picture_, sample_;
  Stopwatch clock_, log_clock_;
  double steps_seconds_ = 0;
  std::int64_t steps_here_ = 0, saved_step_ = -1;
  int nonfinite_in_a_row_ = 0;
};

}  // namespace

Exit train(TrainOptions& options, const Invocation& invocation) {
  TrainRun run(options, invocation);
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
