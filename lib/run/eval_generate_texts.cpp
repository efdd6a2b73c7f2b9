// The loop of generation: a forward pass of every unfinished text for each token. Not here: prompts, output.
#include <algorithm>

#include "lib/base/rng.h"
#include "lib/comm/collectives.h"
#include "lib/run/eval_generate.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

// What the tokens after a prompt say: of all tokens together, since a tokenizer may join words at the seam.
std::string continuation_text(const Tokenizer& tokenizer, const std::vector<std::int32_t>& tokens, std::size_t num_prompt) {
  const std::string all = tokenizer.decode(tokens);
  const std::string prompt = tokenizer.decode(std::span(tokens).first(num_prompt));
  return all.starts_with(prompt) ? all.substr(prompt.size()) : tokenizer.decode(std::span(tokens).subspan(num_prompt));
}

// A text on its way.
class Text {
 public:
  Text(const TextWanted& wanted, std::size_t number, std::uint64_t seed)
      : number_(number),
        num_prompt_(wanted.prompt->tokens.size()),
        tokens_(wanted.prompt->tokens),
        rng_(seed, "generate." + std::to_string(wanted.number) + "." + std::to_string(wanted.sample)) {}

  // Tokens that the model is to see.
  std::span<const std::int32_t> window(std::size_t seq) {
    if (tokens_.size() - begin_ > seq)
      begin_ = tokens_.size() - (tokens_.size() == num_prompt_ ? seq : std::max<std::size_t>(1, seq / 2));
    return std::span(tokens_).subspan(begin_);
  }

  void add(std::span<const float> logits_V, const GenerateOptions& o, const Tokenizer& tokenizer) {
    const std::size_t n = tokens_.size() - num_prompt_;
    tokens_.push_back(choose_token(logits_V, o.sampling, rng_.uniform(n)));
    done_ = n + 1 >= static_cast<std::size_t>(o.tokens);
    if (!o.stop.empty()) cut_at_stop(o.stop, tokenizer);
  }

  bool done() const { return done_; }

  nlohmann::json json(const Tokenizer& tokenizer) const {
    const std::string text = stopped_ ? text_ : continuation_text(tokenizer, tokens_, num_prompt_);
    return {number_, std::vector<std::int32_t>(tokens_.begin() + static_cast<std::ptrdiff_t>(num_prompt_), tokens_.end()),
            std::vector<std::uint8_t>(text.begin(), text.end()), stopped_};
  }

 private:
  void cut_at_stop(const std::vector<std::string>& stop, const Tokenizer& tokenizer) {
    const std::string text = continuation_text(tokenizer, tokens_, num_prompt_);
    std::size_t at = std::string::npos;
    for (const std::string& s : stop) at = std::min(at, text.find(s));
    if (at == std::string::npos) return;
    text_ = text.substr(0, at);
    done_ = stopped_ = true;
  }

  std::size_t number_, num_prompt_, begin_ = 0;
  std::vector<std::int32_t> tokens_;
  std::string text_;
  Rng rng_;
  bool done_ = false, stopped_ = false;
};

// Texts of this rank, until those of all ranks are done.
class Group {
 public:
  Group(EvalModel& model, const GenerateOptions& options, const Tokenizer& tokenizer)
      : model_(model), o_(options), tokenizer_(tokenizer) {}

  void run(std::vector<Text>& texts, int room) {
    for (;;) {
      std::vector<Text*> active;
      for (Text& t : texts)
        if (!t.done()) active.push_back(&t);
      const int longest = longest_of_all(active);
      if (longest == 0) return;
      make_pass(longest, room);
      step(active);
    }
  }

 private:
  // Tokens in the longest window of any rank; 0: nobody has a text that is not done.
  int longest_of_all(const std::vector<Text*>& active) {
    std::int64_t longest = 0;
    for (Text* t : active)
      longest = std::max(longest, static_cast<std::int64_t>(t->window(static_cast<std::size_t>(model_.seq())).size()));
    World& world = model_.world();
    if (!world.alone())
      world.lane().call("generation", [&] { all_reduce_max(world.comm(), "generation", std::span(&longest, 1)); });
    return static_cast<int>(longest);
  }

  void make_pass(int longest, int room) {
    constexpr int kStep = 64;
    const int seq = std::min(model_.seq(), (longest + kStep - 1) / kStep * kStep);
    if (pass_ && pass_->shape().seq_len == seq && pass_->shape().num_seqs >= room) return;
    pass_.reset();
    pass_ = std::make_unique<Pass>(model_.model(), PassOptions{.shape = {room, seq}, .training = false}, model_.env());
  }

  // One token more for each text. What is behind the last token of a window is not seen by it.
  void step(const std::vector<Text*>& active) {
    const auto S = static_cast<std::size_t>(pass_->shape().seq_len);
    std::vector<std::int32_t> id(active.size() * S), target(id.size(), -1);
    for (std::size_t i = 0; i < active.size(); ++i)
      std::ranges::copy(active[i]->window(static_cast<std::size_t>(model_.seq())),
                        id.begin() + static_cast<std::ptrdiff_t>(i * S));
    pass_->forward({.shape = {static_cast<int>(active.size()), static_cast<int>(S)},
                    .id_T = id,
                    .target_T = target,
                    .with_gradient = false,
                    .tally = false});
    const Mat logits = pass_->logits();
    for (std::size_t i = 0; i < active.size(); ++i) {
      const std::size_t last = i * S + active[i]->window(static_cast<std::size_t>(model_.seq())).size() - 1;
      const auto* row = static_cast<const float*>(logits.row(static_cast<std::int64_t>(last)));
      active[i]->add({row, static_cast<std::size_t>(logits.cols)}, o_, tokenizer_);
    }
  }

  EvalModel& model_;
  const GenerateOptions& o_;
  const Tokenizer& tokenizer_;
  std::unique_ptr<Pass> pass_;
};

}  // namespace

std::vector<TextMade> make_texts(EvalModel& model, const std::vector<TextWanted>& wanted, const GenerateOptions& options,
                                 std::uint64_t seed, const Tokenizer& tokenizer) {
  World& world = model.world();
  const auto n = static_cast<std::int64_t>(wanted.size());
  const int room = model.pass_options(n, model.seq()).shape.num_seqs;
  const std::int64_t together = std::int64_t{room} * world.size();
  Group group(model, options, tokenizer);
  nlohmann::json mine = nlohmann::json::array();
  for (std::int64_t begin = 0; begin < n && options.tokens > 0; begin += together) {
    const std::int64_t count = std::min(together, n - begin);
    std::vector<Text> texts;
    for (std::int64_t i = begin + count * world.rank() / world.size(); i < begin + count * (world.rank() + 1) / world.size();
         ++i)
      texts.emplace_back(wanted[static_cast<std::size_t>(i)], static_cast<std::size_t>(i), seed);
    group.run(texts, room);
    for (const Text& t : texts) mine.push_back(t.json(tokenizer));
  }
  std::vector<std::string> all = {mine.dump()};
  if (!world.alone()) world.lane().call("texts", [&] { all = gather_texts_at_first(world.comm(), "texts", mine.dump()); });
  std::vector<TextMade> made(world.rank() == 0 ? wanted.size() : 0);
  for (const std::string& text : all)
    for (const auto& t : nlohmann::json::parse(text)) {
      const auto bytes = t[2].get<std::vector<std::uint8_t>>();
      made[t[0].get<std::size_t>()] = {
          t[1].get<std::vector<std::int32_t>>(), {bytes.begin(), bytes.end()}, t[3].get<bool>()};
    }
  return made;
}

}  // namespace moe
