#include "lib/run/train_inputs.h"

#include "lib/base/error.h"

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

void check_eval_data(const TrainOptions& o, const TokenFileInfo& eval) {
  if (eval.num_tokens < 2)
    throw Error(Exit::kBadInput, o.eval_data + ": expected at least 2 tokens, found " + std::to_string(eval.num_tokens));
  if (eval.vocab_size > o.model.vocab_size)
    throw Error(Exit::kBadInput, o.eval_data + ": vocabulary of " + std::to_string(eval.vocab_size) +
                                     " is larger than the model's " + std::to_string(o.model.vocab_size));
}

}  // namespace

TrainInputs open_train_inputs(TrainOptions& o) {
  TrainInputs in;
  if (o.data.empty() && !o.common.dry_run)
    throw Error(Exit::kUsage, "--data: expected a token file or a text, found none", "moe-train --data text.txt");
  if (!o.data.empty()) in.data.emplace(TokenSource::open(o.data));
  if (!o.eval_data.empty()) in.eval.emplace(TokenSource::open(o.eval_data));
  fit_vocabulary(o, in.data ? &*in.data : nullptr);
  check_config(o.model);
  if (in.eval) check_eval_data(o, in.eval->info());
  return in;
}

std::int64_t planned_steps(const TrainOptions& o, std::int64_t samples_per_epoch) {
  const bool by_data = o.epochs > 0 && samples_per_epoch > 0;
  const std::int64_t by_epochs = by_data ? std::max<std::int64_t>(1, steps_of_samples(o, o.epochs * samples_per_epoch)) : 0;
  if (by_epochs == 0) return o.steps;
  return o.steps == 0 ? by_epochs : std::min(o.steps, by_epochs);
}

}  // namespace moe
