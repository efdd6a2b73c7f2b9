#include "lib/run/eval_speculate.h"

#include <algorithm>
#include <climits>

#include "lib/base/stopwatch.h"
#include "lib/run/text_table.h"

namespace moe {

int modules_for_drafts(const GenerateOptions& o) { return !o.speculate ? 0 : o.drafts > 0 ? o.drafts : INT_MAX; }

void check_can_draft(const EvalModel& model, const GenerateOptions& o) {
  if (o.speculate && model.config().num_mtp_layers == 0)
    throw Error(Exit::kBadInput,
                model.info().path + ": expected a model with modules of multi-token prediction for --speculate, found none",
                "moe-train --mtp-depth 1 trains one; without --speculate the texts are the same");
}

double Speculation::acceptance(std::size_t place) const {
  return static_cast<double>(counts.accepted_N[place]) / static_cast<double>(counts.made_N[place]);
}

std::string Speculation::text() const {
  if (counts.num_passes == 0) return "speculation: no pass had drafts";
  std::string accepted;
  for (std::size_t i = 0; i < counts.made_N.size(); ++i)
    accepted += (i > 0 ? ", " : "") + short_float(100 * acceptance(i)) + " % of " + thousands(counts.made_N[i]);
  const std::string compared = std::to_string(num_compared) + (num_compared == 1 ? " text" : " texts");
  return "speculation: drafts accepted " + (accepted.empty() ? "none made" : accepted) + "; " +
         short_float(tokens_per_pass()) + " tokens a pass of the model; " +
         (num_differing > 0
              ? std::to_string(num_differing) + " of the first " + compared + " differ without drafts: FAILED"
              : short_float(speed_up()) + " x as fast as without drafts (the first " + compared +
                    ", prompts included: " + short_float(seconds) + " s against " + short_float(plain_seconds) + " s)");
}

nlohmann::json Speculation::json() const {
  nlohmann::json acceptance_N = nlohmann::json::array();
  for (std::size_t i = 0; i < counts.made_N.size(); ++i) acceptance_N.push_back(acceptance(i));
  nlohmann::json j = {{"drafts", counts.made_N},     {"accepted", counts.accepted_N},  {"acceptance", acceptance_N},
                      {"passes", counts.num_passes}, {"compared_texts", num_compared}, {"differing_texts", num_differing},
                      {"seconds", seconds},          {"plain_seconds", plain_seconds}};
  if (counts.num_passes > 0) j["tokens_per_pass"] = tokens_per_pass();
  if (num_differing == 0) j["speed_up"] = speed_up();
  return j;
}

SpeculatedTexts make_texts_with_drafts(EvalModel& model, const std::vector<TextWanted>& wanted, const GenerateOptions& o,
                                       std::uint64_t seed, const Tokenizer& tokenizer) {
  const TextModel texts_of = model.for_texts();
  const auto n = static_cast<std::int64_t>(wanted.size());
  const auto split = wanted.begin() + std::min(n, texts_together(texts_of, n));
  const std::vector<TextWanted> first(wanted.begin(), split), rest(split, wanted.end());
  SpeculatedTexts texts;
  Speculation& s = texts.speculation;
  GenerateOptions warm_up = o;  // libraries choose their code, memory is touched: neither way pays for it
  warm_up.tokens = std::min(o.tokens, 3);
  Stopwatch watch;
  make_texts(texts_of, first, warm_up, seed, tokenizer);
  s.seconds_beside = watch.lap();
  texts.made = make_texts(texts_of, first, o, seed, tokenizer);
  s.seconds = watch.lap();
  GenerateOptions plain = o;
  plain.speculate = false;
  const std::vector<TextMade> without = make_texts(texts_of, first, plain, seed, tokenizer);
  s.plain_seconds = watch.lap();
  s.seconds_beside += s.plain_seconds;
  s.num_compared = static_cast<std::int64_t>(without.size());
  for (std::size_t i = 0; i < without.size() && o.sampling.is_greedy(); ++i)
    s.num_differing += without[i].tokens != texts.made[i].tokens;
  if (!rest.empty()) {
    std::vector<TextMade> more = make_texts(texts_of, rest, o, seed, tokenizer);
    std::ranges::move(more, std::back_inserter(texts.made));
  }
  for (const TextMade& t : texts.made) s.counts += t.drafts;
  return texts;
}

}  // namespace moe
