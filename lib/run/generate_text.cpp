#include "lib/run/generate_text.h"

#include <algorithm>

#include "lib/io/tokenizer.h"

namespace moe {
namespace {

// What the tokens after a prompt say: of all tokens together, since a tokenizer may join words at the seam.
std::string continuation_text(const Tokenizer& tokenizer, const std::vector<std::int32_t>& tokens, std::size_t num_prompt) {
  const std::string all = tokenizer.decode(tokens);
  const std::string prompt = tokenizer.decode(std::span(tokens).first(num_prompt));
  return all.starts_with(prompt) ? all.substr(prompt.size()) : tokenizer.decode(std::span(tokens).subspan(num_prompt));
}

}  // namespace

Text::Text(const TextWanted& wanted, std::size_t number, std::uint64_t seed)
    : number_(number), num_prompt_(wanted.prompt->tokens.size()), tokens_(wanted.prompt->tokens) {
  const std::string name = "generate." + std::to_string(wanted.number) + "." + std::to_string(wanted.sample);
  for (const char* draw : {"", ".draft", ".accept"}) rng_.emplace_back(seed, name + draw);
}

bool Text::moves_on(std::size_t seq) {
  if (tokens_.size() - begin_ <= seq) return false;
  begin_ = tokens_.size() - (is_begun() ? std::max<std::size_t>(1, seq / 2) : seq);
  return true;
}

void Text::add(std::int32_t token, const TextOptions& o, const Tokenizer& tokenizer) {
  tokens_.push_back(token);
  done_ = num_made() >= static_cast<std::size_t>(o.tokens);
  if (!o.stop.empty()) cut_at_stop(o.stop, tokenizer);
}

void Text::cut_at_stop(const std::vector<std::string>& stop, const Tokenizer& tokenizer) {
  const std::string text = continuation_text(tokenizer, tokens_, num_prompt_);
  std::size_t at = std::string::npos;
  for (const std::string& s : stop) at = std::min(at, text.find(s));
  if (at == std::string::npos) return;
  text_ = text.substr(0, at);
  done_ = stopped_ = true;
}

nlohmann::json Text::json(const Tokenizer& tokenizer) const {
  const std::string text = stopped_ ? text_ : continuation_text(tokenizer, tokens_, num_prompt_);
  return {number_,
          std::vector<std::int32_t>(tokens_.begin() + static_cast<std::ptrdiff_t>(num_prompt_), tokens_.end()),
          std::vector<std::uint8_t>(text.begin(), text.end()),
          stopped_,
          drafts_.num_passes,
          drafts_.num_tokens,
          drafts_.made_N,
          drafts_.accepted_N};
}

std::pair<std::size_t, TextMade> Text::made_of(const nlohmann::json& t) {
  const auto bytes = t[2].get<std::vector<std::uint8_t>>();
  TextMade made{.tokens = t[1].get<std::vector<std::int32_t>>(),
                .text = {bytes.begin(), bytes.end()},
                .stopped = t[3].get<bool>(),
                .drafts = {t[4], t[5], t[6], t[7]}};
  return {t[0].get<std::size_t>(), std::move(made)};
}

}  // namespace moe
