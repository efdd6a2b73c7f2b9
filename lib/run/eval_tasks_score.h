// From items to tokens, from log-likelihoods to figures, by the rules of lm-evaluation-harness 0.4.
// Not here: files (eval_tasks_read.h), the model (eval_score.h), tables (eval_tasks_report.h).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "lib/io/tokens.h"
#include "lib/run/eval_score.h"
#include "lib/run/eval_tasks_format.h"

namespace moe {

// What a model reads where a text begins.
struct TokenRule {
  int bos_token = -1;    // -1: none. Stands for the context where there is no text before the continuation
  bool add_bos = false;  // also before every other context
};
// White space at the end of the context moves to the continuation; both together are encoded once and cut after as many
// tokens as the context has alone. Error 65 that begins with item.where if nothing is left to score.
std::vector<ScoreRequest> requests_of(const EvalItem& item, const std::string& before, const Tokenizer& tokenizer,
                                      const TokenRule& rule);
// What stands before the item's own context: its description and the first num_shots of `shots` of its subject, each
// followed by an empty line. same_data: the examples are the questions themselves; an item is then no example for itself,
// nor are its doubles (of other data the harness takes all). Error 65 if there are not so many.
std::string text_before(const EvalItem& item, std::span<const EvalItem> shots, std::int64_t num_shots, bool same_data);

struct ItemScore {
  std::vector<ScoreResult> results;  // of the item's requests
  // Of a question, the choice of the largest log-likelihood: the sum, per character and per byte (ties: the first).
  int chosen = 0, chosen_norm = 0, chosen_bytes = 0;
  bool right = false, right_norm = false, right_bytes = false;  // of a cloze: greedy
  std::int64_t num_cut = 0;                                     // tokens, of the request that lost most
};
// Error 76 that begins with item.where if a result is not finite.
ItemScore score_item(const EvalItem& item, std::span<const ScoreResult> results);

struct Metric {
  std::string name;
  double value = 0;
  std::optional<double> stderror;  // none of a single item
};
// Mean and its standard error, the sample's deviation over sqrt(n), items taken as independent.
Metric mean_metric(const std::string& name, std::span<const double> values);
// acc, and where `normalised` acc_norm and acc_bytes; of a cloze acc and perplexity, whose error is that of the mean
// log-likelihood times the perplexity (the delta method; the harness draws 100,000 bootstrap samples).
std::vector<Metric> metrics_of(std::span<const EvalItem> items, std::span<const ItemScore> scores, bool normalised);
// acc over all questions, with the error the harness pools from those of the subjects; acc_macro, the mean of subjects.
std::vector<Metric> metrics_over_subjects(std::span<const Metric> acc, std::span<const std::size_t> sizes);

}  // namespace moe
