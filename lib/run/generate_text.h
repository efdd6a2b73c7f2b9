// A text on its way: its tokens, the window that the model sees of it, when it is done. Not here: passes
// (generate_loop.h).
#pragma once

#include "lib/base/rng.h"
#include "lib/run/generate.h"

namespace moe {

class Text {
 public:
  // The random numbers of token n of the continuation: of the choice, of a draft for it and of the draft's acceptance.
  enum class Draw : std::uint8_t { kChoice, kDraft, kAccept };

  Text(const TextWanted& wanted, std::size_t number, std::uint64_t seed);

  // Tokens that the model is to see.
  std::span<const std::int32_t> window() const { return std::span(tokens_).subspan(begin_); }
  // True if the window was full and has moved on: nothing of it is in the cache then.
  bool moves_on(std::size_t seq);
  bool is_begun() const { return num_made() > 0; }
  std::int32_t last() const { return tokens_.back(); }
  std::size_t num_made() const { return tokens_.size() - num_prompt_; }
  double uniform(Draw draw, std::size_t n) const { return rng_[static_cast<std::size_t>(draw)].uniform(n); }
  // The next token; stop texts and the most tokens of o end the text.
  void add(std::int32_t token, const TextOptions& o, const Tokenizer& tokenizer);
  bool done() const { return done_; }
  DraftCounts& drafts() { return drafts_; }

  // For rank 0, which makes a TextMade of it, whose place is `number`.
  nlohmann::json json(const Tokenizer& tokenizer) const;
  static std::pair<std::size_t, TextMade> made_of(const nlohmann::json& json);

 private:
  void cut_at_stop(const std::vector<std::string>& stop, const Tokenizer& tokenizer);

  std::size_t number_, num_prompt_, begin_ = 0;
  std::vector<std::int32_t> tokens_;
  std::string text_;
  std::vector<Rng> rng_;
  DraftCounts drafts_;
  bool done_ = false, stopped_ = false;
};

}  // namespace moe
