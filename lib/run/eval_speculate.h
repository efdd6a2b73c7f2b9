// What drafts bring to generation, measured in the same run: how many stand, tokens a pass of the model, and the time of the
// first texts against that without drafts. Not here: how they are made (generate_loop.h).
#pragma once

#include "lib/run/eval_generate.h"

namespace moe {

// Modules of multi-token prediction that generation uses at most; the others need no memory.
int modules_for_drafts(const GenerateOptions& options);
// Error(kBadInput) for a model without modules.
void check_can_draft(const EvalModel& model, const GenerateOptions& options);

struct Speculation {
  DraftCounts counts;
  // The first texts (those of the first batch on all ranks), made both ways.
  std::int64_t num_compared = 0, num_differing = 0;  // greedy: texts that are not those without drafts; never
  double seconds = 0, plain_seconds = 0;             // of these, warmed up
  double seconds_beside = 0;                         // without drafts and warming up, which the texts do not need

  double tokens_per_pass() const { return static_cast<double>(counts.num_tokens) / static_cast<double>(counts.num_passes); }
  double acceptance(std::size_t place) const;  // of the drafts there; those behind a wrong one count as wrong
  double speed_up() const { return plain_seconds / seconds; }
  std::string text() const;
  nlohmann::json json() const;
};

// As make_texts(); on rank 0 with what the drafts brought. A collective call.
struct SpeculatedTexts {
  std::vector<TextMade> made;
  Speculation speculation;
};
SpeculatedTexts make_texts_with_drafts(EvalModel& model, const std::vector<TextWanted>& wanted,
                                       const GenerateOptions& options, std::uint64_t seed, const Tokenizer& tokenizer);

}  // namespace moe
