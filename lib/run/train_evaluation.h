// Evaluation while a model trains: the loss on held-out data, that of the moving average at the end, and how often the
// second token is accepted; told and written. Every rank makes the same calls. Not here: when (lib/run/train.cpp), how
// (lib/run/evaluate.h).
#pragma once

#include <memory>
#include <optional>

#include "lib/run/evaluate.h"
#include "lib/run/run_output.h"
#include "lib/run/train_options.h"

namespace moe {

class TrainEvaluation {
 public:
  struct Moment {
    std::int64_t step = 0;
    double seconds = 0;  // of the run
  };
  // Windows of a rank at a time: micro_batch. Nothing is evaluated without `data`.
  TrainEvaluation(const TrainOptions& options, const TokenSource* data, int micro_batch, World& world, Env env)
      : o_(options), data_(data), micro_batch_(micro_batch), world_(world), env_(env) {}

  void evaluate_now(Model& model, std::int64_t max_tokens, const Moment& now, RunOutput& output);  // 0: all of the data
  // The moving average takes the place of the parameters meanwhile: nobody may save or train.
  void evaluate_average(Model& model, const Moment& now, RunOutput& output);
  void forget_model() { pass_.reset(); }  // it is about to be another one

  const std::optional<Evaluation>& last() const { return last_; }
  const std::optional<Evaluation>& of_average() const { return of_average_; }

 private:
  Evaluation evaluation_of(Model& model, std::int64_t max_tokens);

  const TrainOptions& o_;
  const TokenSource* data_;
  int micro_batch_;
  World& world_;
  Env env_;
  std::unique_ptr<Pass> pass_;
  std::optional<Evaluation> last_, of_average_;
};

}  // namespace moe
