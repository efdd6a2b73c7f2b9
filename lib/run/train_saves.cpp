#include "lib/run/train_saves.h"

#include <cstdio>

#include "lib/base/log.h"
#include "lib/base/stopwatch.h"
#include "lib/comm/collectives.h"

namespace moe {
namespace {

// Before anything was measured: what a disk of 1 GB/s would take.
constexpr double kGuessedBytesPerSecond = 1e9;
constexpr double kSecondsPerHour = 3600;

// The disk, its quota or its permissions, not our numbers or a bug: training can go on.
bool is_of_the_disk(const Error& e) { return e.code() == Exit::kIo || e.code() == Exit::kCannotCreate; }

}  // namespace

TrainSaves::TrainSaves(const TrainOptions& options, Model& model, Trainer& trainer, RunOutput& output)
    : o_(options),
      output_(output),
      fail_(SaveFailPolicy::parse(options.save_fail)),
      every_(SaveEvery::parse(options.save_every)) {
  follow(model, trainer);
}

void TrainSaves::follow(Model& model, Trainer& trainer) {
  model_ = &model;
  trainer_ = &trainer;
  saver_.reset();
  if (!output_.enabled()) return;
  const bool during = every_.is_auto || every_.steps > 0;  // at the end there is nothing to hide a save under
  saver_ = std::make_unique<MeshSaver>(model, o_.output, during ? o_.save : SaveMode::kSync);
}

void TrainSaves::tell(const std::string& line) const {
  if (model_->mesh().world().rank() == 0) log_info(line);
}

bool TrainSaves::due(std::int64_t step) const {
  if (!saver_) return false;
  if (!every_.is_auto) return every_.steps > 0 && step % every_.steps == 0;
  return interval_ > 0 && step - std::max(asked_step_, step - num_steps_) >= interval_;
}

// The clock is rank 0's, so all choose the same.
void TrainSaves::choose_interval(double cost_seconds, double save_seconds) {
  const std::int64_t before = interval_;
  interval_ = steps_between_saves(cost_seconds, save_seconds, o_.mtbf * kSecondsPerHour, step_seconds_);
  if (interval_ == before) return;
  char text[200];
  std::snprintf(text, sizeof text,
                "--save-every auto: %lld steps (a save costs %.3g s, a step %.3g s, a failure every %g h)",
                static_cast<long long>(interval_), cost_seconds, step_seconds_, o_.mtbf);
  tell(text);
}

void TrainSaves::step_done(const StepResult& step) {
  if (!saver_) return;
  if (num_steps_++ == 0) begin_seconds_ = step.run_seconds;  // the first step is the slowest
  if (num_steps_ > 1) step_seconds_ = (step.run_seconds - begin_seconds_) / static_cast<double>(num_steps_ - 1);
  if (every_.is_auto && interval_ == 0 && num_steps_ > 3) {
    double bytes = 0;
    for (const Param& p : model_->params().all()) bytes += 12.0 * static_cast<double>(p.spec.num_elements());
    choose_interval(bytes / kGuessedBytesPerSecond, bytes / kGuessedBytesPerSecond);
  }
  if (saver_->in_flight() && step.num_busy == 0)
    guarded([&] {
      if (const auto save = saver_->advance()) done(*save);
    });
}

// A failure is thrown on all ranks alike: all count it.
template <class Action>
void TrainSaves::guarded(Action action) {
  try {
    action();
  } catch (const Error& e) {
    if (!is_of_the_disk(e)) throw;
    failed(e);
  }
}

void TrainSaves::failed(const Error& e) {
  ++failures_in_a_row_;
  asked_step_ = std::min(asked_step_, saver_->step());
  const std::string what = "save of step " + std::to_string(saver_->step()) + " failed: " + e.what();
  if (fail_.limit == 1) throw AgreedError(e.code(), what, e.hint(), 0);
  const std::string count = std::to_string(failures_in_a_row_) + " in a row";
  output_.write_event({{"event", "save-failed"}, {"step", saver_->step()}, {"error", e.what()}});
  if (failures_in_a_row_ >= fail_.limit)
    throw AgreedError(Exit::kIo, what + " (" + count + ", --save-fail " + o_.save_fail + ")", e.hint(), 0);
  if (model_->mesh().world().rank() == 0)
    log_warning(what + " (" + count + " of " + std::to_string(fail_.limit) +
                "); training goes on, the checkpoint before stays the newest");
}

void TrainSaves::done(const FinishedSave& save) {
  failures_in_a_row_ = 0;
  path_ = save.path;
  saved_step_ = save.step;
  output_.write_event({{"event", "checkpoint"},
                       {"step", save.step},
                       {"checkpoint_ms", 1e3 * save.total_seconds},
                       {"stall_ms", 1e3 * save.stall_seconds}});
  log_debug("saved " + save.path + " digest " + save.digest);
  if (every_.is_auto && step_seconds_ > 0) choose_interval(save.stall_seconds, save.total_seconds);
}

void TrainSaves::begin(const RunCounters& counters) {
  if (!saver_ || asked_step_ == counters.step) return;
  if (saver_->in_flight()) {
    const Stopwatch watch;
    const std::int64_t before = saver_->step();
    guarded([&] {
      if (const auto save = saver_->wait()) done(*save);
    });
    char text[160];
    std::snprintf(text, sizeof text, "the save of step %lld waited %.2f s for that of step %lld",
                  static_cast<long long>(counters.step), watch.seconds(), static_cast<long long>(before));
    tell(text);
  }
  asked_step_ = counters.step;
  SaveRequest request = output_.request(*model_, *trainer_, counters);
  guarded([&] { saver_->begin(std::move(request)); });
  if (o_.save == SaveMode::kSync)
    guarded([&] {
      if (const auto save = saver_->wait()) done(*save);
    });
}

std::string TrainSaves::newest() {
  if (saver_)
    guarded([&] {
      if (const auto save = saver_->wait()) done(*save);
    });
  return path_;
}

// No step comes after this one: nothing may be lost quietly.
std::string TrainSaves::finish(const RunCounters& counters) {
  if (!saver_) return "";
  newest();
  if (saved_step_ == counters.step) return path_;
  asked_step_ = counters.step;
  saver_->begin(output_.request(*model_, *trainer_, counters));
  done(*saver_->wait());
  return path_;
}

}  // namespace moe
