#include "lib/run/eval_tasks_score.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "lib/base/error.h"
#include "lib/run/eval_tasks_text.h"

namespace moe {
namespace {

bool is_same(const EvalItem& a, const EvalItem& b) {
  return a.contexts == b.contexts && a.continuations == b.continuations && a.gold == b.gold;
}

// The first of the largest, as numpy's argmax. A choice without a character has the least there is.
int first_largest(std::span<const ScoreResult> results, const std::function<double(std::size_t)>& length) {
  std::vector<double> value;
  for (std::size_t i = 0; i < results.size(); ++i) {
    const double n = length(i);
    value.push_back(n > 0 ? results[i].log_likelihood / n : -std::numeric_limits<double>::infinity());
  }
  return static_cast<int>(std::max_element(value.begin(), value.end()) - value.begin());
}

double mean_of(std::span<const double> v) {
  return std::accumulate(v.begin(), v.end(), 0.0) / static_cast<double>(v.size());
}

Metric perplexity_metric(std::span<const double> log_likelihood) {
  const Metric mean = mean_metric("", log_likelihood);
  const double perplexity = std::exp(-mean.value);
  return {"perplexity", perplexity, mean.stderror ? std::optional(perplexity * *mean.stderror) : std::nullopt};
}

}  // namespace

std::vector<ScoreRequest> requests_of(const EvalItem& item, const std::string& before, const Tokenizer& tokenizer,
                                      const TokenRule& rule) {
  std::vector<ScoreRequest> requests;
  for (std::size_t i = 0; i < item.num_requests(); ++i) {
    const std::string text = before + item.context(i);
    const std::string_view context = strip_right(text);
    ScoreRequest request{tokenizer.encode(context), tokenizer.encode(text + item.continuation(i))};
    auto &head = request.context, &tail = request.continuation;
    tail.erase(tail.begin(), tail.begin() + static_cast<std::ptrdiff_t>(std::min(head.size(), tail.size())));
    const bool brings_bos = head.empty() && !tail.empty() && tail[0] == rule.bos_token;
    if (rule.bos_token >= 0 && (head.empty() || rule.add_bos) && !brings_bos) head.insert(head.begin(), rule.bos_token);
    if (tail.size() <= (head.empty() ? 1u : 0u))
      throw Error(Exit::kBadInput, item.where + ": expected tokens to score after the context, found none",
                  head.empty() ? "--bos-token lets the first token be scored" : "");
    requests.push_back(std::move(request));
  }
  return requests;
}

std::string text_before(const EvalItem& item, std::span<const EvalItem> shots, std::int64_t num_shots, bool same_data) {
  std::string text = item.description;
  std::int64_t num_found = 0;
  for (const EvalItem& shot : shots)
    if (num_found < num_shots && shot.subject == item.subject && !(same_data && is_same(shot, item))) {
      text += shot_text(shot) + "\n\n";
      ++num_found;
    }
  if (num_found < num_shots)
    throw Error(Exit::kBadInput, item.where + ": expected " + std::to_string(num_shots) + " examples" +
                                     (item.subject.empty() ? "" : " of " + item.subject) + ", found " +
                                     std::to_string(num_found) + " in the file of --shots-file");
  return text;
}

ItemScore score_item(const EvalItem& item, std::span<const ScoreResult> results) {
  ItemScore score;
  score.results.assign(results.begin(), results.end());
  for (const ScoreResult& r : results) {
    if (!std::isfinite(r.log_likelihood))
      throw Error(Exit::kNumeric,
                  item.where + ": expected finite log-likelihoods, found " + std::to_string(r.log_likelihood));
    score.num_cut = std::max(score.num_cut, r.num_cut);
  }
  if (item.is_cloze()) {
    score.right = results[0].is_greedy;
    return score;
  }
  score.chosen = first_largest(results, [](std::size_t) { return 1.0; });
  score.chosen_norm =
      first_largest(results, [&](std::size_t i) { return static_cast<double>(num_characters(item.choices[i])); });
  score.chosen_bytes = first_largest(results, [&](std::size_t i) { return static_cast<double>(item.choices[i].size()); });
  score.right = score.chosen == item.gold;
  score.right_norm = score.chosen_norm == item.gold;
  score.right_bytes = score.chosen_bytes == item.gold;
  return score;
}

Metric mean_metric(const std::string& name, std::span<const double> values) {
  const double mean = mean_of(values), n = static_cast<double>(values.size());
  if (values.size() < 2) return {name, mean, std::nullopt};
  double squares = 0;
  for (const double v : values) squares += (v - mean) * (v - mean);
  return {name, mean, std::sqrt(squares / (n - 1)) / std::sqrt(n)};
}

std::vector<Metric> metrics_of(std::span<const EvalItem> items, std::span<const ItemScore> scores, bool normalised) {
  std::vector<double> acc, norm, bytes, log_likelihood;
  for (const ItemScore& s : scores) {
    acc.push_back(s.right);
    norm.push_back(s.right_norm);
    bytes.push_back(s.right_bytes);
    log_likelihood.push_back(s.results[0].log_likelihood);
  }
  std::vector<Metric> metrics = {mean_metric("acc", acc)};
  if (normalised) metrics.insert(metrics.end(), {mean_metric("acc_norm", norm), mean_metric("acc_bytes", bytes)});
  if (items[0].is_cloze()) metrics.push_back(perplexity_metric(log_likelihood));
  return metrics;
}

std::vector<Metric> metrics_over_subjects(std::span<const Metric> acc, std::span<const std::size_t> sizes) {
  const auto num_subjects = static_cast<double>(acc.size());
  double n = 0, weighted = 0, sum = 0, pooled = 0, variance = 0;
  for (std::size_t i = 0; i < acc.size(); ++i) {
    const auto size = static_cast<double>(sizes[i]);
    const double square = acc[i].stderror.value_or(0) * acc[i].stderror.value_or(0);
    n += size;
    weighted += acc[i].value * size;
    sum += acc[i].value;
    pooled += (size - 1) * square * size;
    variance += square;
  }
  const bool has_error = std::all_of(acc.begin(), acc.end(), [](const Metric& m) { return m.stderror.has_value(); });
  const auto error = [&](double value) { return has_error ? std::optional(value) : std::nullopt; };
  return {{"acc", weighted / n, error(std::sqrt(pooled / (n - num_subjects) / n))},
          {"acc_macro", sum / num_subjects, error(std::sqrt(variance) / num_subjects)}};
}

}  // namespace moe
