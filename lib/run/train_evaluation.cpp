#include "lib/run/train_evaluation.h"

#include <cstdio>

#include "lib/base/log.h"

namespace moe {
namespace {

void tell(const char* what, const char* key, const Evaluation& e, const TrainEvaluation::Moment& now, RunOutput& output) {
  const SecondTokens& second = e.second_tokens;
  char text[160], accepted[48] = "";
  if (second.num_judged > 0)
    std::snprintf(accepted, sizeof accepted, "  second tokens accepted %.1f %%", 100 * second.acceptance());
  std::snprintf(text, sizeof text, "%s step %lld  loss %.4f  over %lld tokens%s  %.1f s", what,
                static_cast<long long>(now.step), e.loss, static_cast<long long>(e.num_tokens), accepted, e.seconds);
  log_info(text);
  nlohmann::json row = {{"step", now.step}, {key, e.loss}, {"eval_tokens", e.num_tokens}, {"seconds", now.seconds}};
  if (second.num_judged > 0) row["second_token_acceptance"] = second.acceptance();
  output.write_event(row);
}

}  // namespace

Evaluation TrainEvaluation::evaluation_of(Model& model, std::int64_t max_tokens) {
  const TraceSpan span(world_.trace(), TraceRow::kCompute, {.name = "evaluation"});
  if (!pass_)
    pass_ = std::make_unique<Pass>(model, PassOptions{.shape = {micro_batch_, o_.seq}, .training = false, .num_modules = 1},
                                   env_);
  return evaluate(*pass_, world_, *data_, o_.document_mask, max_tokens);
}

void TrainEvaluation::evaluate_now(Model& model, std::int64_t max_tokens, const Moment& now, RunOutput& output) {
  if (!data_) return;
  last_ = evaluation_of(model, max_tokens);
  tell("eval ", "eval_loss", *last_, now, output);
}

void TrainEvaluation::evaluate_average(Model& model, const Moment& now, RunOutput& output) {
  if (!data_ || !model.params().state().ema) return;
  model.average()->join(env_.stream);
  const auto swap = [&] {
    model.params().swap_ema(env_);
    model.units().weights_changed();
  };
  swap();
  of_average_ = evaluation_of(model, 0);
  swap();
  tell("eval of the moving average ", "ema_eval_loss", *of_average_, now, output);
}

}  // namespace moe
