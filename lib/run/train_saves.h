// The saves of a training run: when they begin, what happens at the step boundaries while one is in flight, and what a
// failure means. Every rank makes the same calls with the same numbers. Not here: how a save is made (mesh_save.h).
#pragma once

#include "lib/run/mesh_save.h"
#include "lib/run/run_output.h"
#include "lib/run/save_interval.h"

namespace moe {

class TrainSaves {
 public:
  TrainSaves(const TrainOptions& options, Model& model, Trainer& trainer, RunOutput& output);

  // The run goes on with these; no save may be in flight (newest()).
  void follow(Model& model, Trainer& trainer);
  // For StepNews: this rank's thread writes.
  bool busy() const { return saver_ && saver_->busy(); }
  // A step boundary; num_busy: ranks that write, agreed by the totals of the step. Publishes what is written.
  void step_done(const StepResult& step);
  bool due(std::int64_t step) const;
  // Begins a save of this state; waits for the one in flight, if there is one. In a run without output nothing.
  void begin(const RunCounters& counters);
  // The end: this state is saved, on the disk and published, or an Error. Its path, "" without output.
  std::string finish(const RunCounters& counters);
  // Waits for the save in flight. Path of the newest of this run, "" if there is none.
  std::string newest();

 private:
  template <class Action>
  void guarded(Action action);
  void failed(const Error& error);
  void done(const FinishedSave& save);
  void choose_interval(double cost_seconds, double save_seconds);
  void tell(const std::string& line) const;

  const TrainOptions& o_;
  Model* model_ = nullptr;
  Trainer* trainer_ = nullptr;
  RunOutput& output_;
  SaveFailPolicy fail_;
  SaveEvery every_;
  std::unique_ptr<MeshSaver> saver_;
  std::string path_;
  std::int64_t asked_step_ = -1, saved_step_ = -1;  // of the last save that began, and that was published
  std::int64_t interval_ = 0;                       // auto: steps
  double step_seconds_ = 0, begin_seconds_ = 0;     // rank 0's, agreed on
  std::int64_t num_steps_ = 0;
  int failures_in_a_row_ = 0;
};

}  // namespace moe
