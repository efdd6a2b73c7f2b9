#include "lib/run/train_report.h"

#include <cstdio>

namespace moe {

double TrainReport::tokens_per_second() const {
  return steps_seconds > 0 ? static_cast<double>(tokens_here) / steps_seconds : 0;
}

nlohmann::json train_json(const TrainOptions& o, const TrainReport& t) {
  nlohmann::json r = summary_json(t.summary);
  r["steps"] = t.counters.step;
  if (t.counters.step > 0) {
    r["first_loss"] = t.counters.first_loss;
    r["train_loss"] = t.counters.last_loss;
    r["train_seconds"] = t.counters.seconds;
    r["tokens_per_second"] = t.tokens_per_second();
    r["gemm_peak_gflops"] = t.base.gemm_peak_gflops;
    r["skipped_updates"] = t.counters.skipped;
  }
  if (!t.last_mtp_loss.empty()) r["mtp_loss"] = t.last_mtp_loss;
  if (t.evaluation) r["eval_loss"] = t.evaluation->loss;
  if (t.ema_evaluation) r["ema_eval_loss"] = t.ema_evaluation->loss;
  if (t.evaluation && t.evaluation->second_tokens.num_judged > 0)
    r["second_token_acceptance"] = t.evaluation->second_tokens.acceptance();
  if (!t.checkpoint.empty()) r["checkpoint"] = t.checkpoint;
  if (!t.picture.empty()) r["picture"] = t.picture;
  for (const LayerResult& l : t.last_layers) {
    nlohmann::json load = nlohmann::json::array();
    const double slots = static_cast<double>(t.last_tokens) * o.model.top_k;
    for (std::int64_t c : l.counts_E)
      load.push_back(static_cast<double>(c) * static_cast<double>(l.counts_E.size()) / slots);
    r["layers"].push_back({{"layer", l.layer}, {"max_vio", l.load.max_vio}, {"dead", l.load.dead}, {"load", load}});
  }
  return r;
}

std::string train_box(const TrainReport& t) {
  std::vector<std::pair<std::string, std::string>> rows;
  char text[160];
  std::snprintf(text, sizeof text, "%.4f -> %.4f nats per token", t.counters.first_loss, t.counters.last_loss);
  rows.push_back({"train loss", text});
  for (std::size_t k = 0; k < t.last_mtp_loss.size(); ++k) {
    std::snprintf(text, sizeof text, "%.4f, token %zu ahead", t.last_mtp_loss[k], k + 2);
    rows.push_back({"MTP loss", text});
  }
  if (t.evaluation) {
    std::snprintf(text, sizeof text, "%.4f over %lld tokens", t.evaluation->loss,
                  static_cast<long long>(t.evaluation->num_tokens));
    rows.push_back({"eval loss", text});
    if (const SecondTokens& second = t.evaluation->second_tokens; second.num_judged > 0) {
      std::snprintf(text, sizeof text, "%.1f %% of %lld, where the model's greedy token is the module's",
                    100 * second.acceptance(), static_cast<long long>(second.num_judged));
      rows.push_back({"second tokens", text});
    }
  }
  if (t.ema_evaluation) {
    std::snprintf(text, sizeof text, "%.4f with the moving average of the parameters", t.ema_evaluation->loss);
    rows.push_back({"", text});
  }
  std::snprintf(text, sizeof text, "%lld in %.1f s, %.0f tokens/s", static_cast<long long>(t.counters.step),
                t.counters.seconds, t.tokens_per_second());
  rows.push_back({"steps", text});
  if (!t.checkpoint.empty()) rows.push_back({"checkpoint", t.checkpoint});
  if (!t.picture.empty()) rows.push_back({"picture", t.picture});
  return boxed("result", rows);
}

}  // namespace moe
