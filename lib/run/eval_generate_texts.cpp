// The loop of generation: prompts go into the cache a few at a time, then every unfinished text gets a token in each pass.
// Not here: prompts, output.
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
  std::span<const std::int32_t> window() const { return std::span(tokens_).subspan(begin_); }
  // True if the window was full and has moved on: nothing of it is in the cache then.
  bool moves_on(std::size_t seq) {
    if (tokens_.size() - begin_ <= seq) return false;
    begin_ = tokens_.size() - (tokens_.size() == num_prompt_ ? seq : std::max<std::size_t>(1, seq / 2));
    return true;
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

// Texts of this rank, until those of all ranks are done. Text i has sequence i of the cache.
class Group {
 public:
  Group(EvalModel& model, const GenerateOptions& options, const Tokenizer& tokenizer, int room)
      : model_(model),
        o_(options),
        tokenizer_(tokenizer),
        cache_(model.config(), model.model().dtype(), room, model.seq()),
        pass_(model.model(),
              {.shape = {std::max(model.seq(), std::min(room * model.seq(), kPrefillTokens)), 1},
               .training = false,
               .cache = &cache_,
               .max_logits = room},
              model.env()) {}

  void run(std::vector<Text>& texts) {
    for (int i = 0; i < cache_.num_seqs(); ++i) cache_.set_length(i, 0);
    for (;;) {
      // Texts that begin go first; ranks that have none of them lend their experts.
      std::vector<CacheRun> begun, going;
      for (std::size_t i = 0; i < texts.size(); ++i)
        if (!texts[i].done()) add_run(texts[i], static_cast<int>(i), begun, going);
      const auto [any_begun, any_going] = of_all_ranks(!begun.empty(), !going.empty());
      if (any_begun)
        extend(texts, begun);
      else if (any_going)
        extend(texts, going);
      else
        return;
    }
  }

 private:
  static constexpr int kPrefillTokens = 2048;  // in one pass, where windows are shorter

  void add_run(Text& text, int seq, std::vector<CacheRun>& begun, std::vector<CacheRun>& going) {
    if (text.moves_on(static_cast<std::size_t>(model_.seq()))) cache_.set_length(seq, 0);
    const CacheRun run{.seq = seq, .count = static_cast<int>(text.window().size()) - cache_.length(seq)};
    if (cache_.length(seq) > 0) return going.push_back(run);
    std::int64_t tokens = run.count;
    for (const CacheRun& other : begun) tokens += other.count;
    if (tokens <= pass_.shape().num_tokens()) begun.push_back(run);
  }

  std::pair<bool, bool> of_all_ranks(bool begun, bool going) {
    std::int64_t any[] = {begun, going};
    World& world = model_.world();
    if (!world.alone()) world.lane().call("generation", [&] { all_reduce_max(world.comm(), "generation", std::span(any)); });
    return {any[0] > 0, any[1] > 0};
  }

  // One token more for the text of each run.
  void extend(std::vector<Text>& texts, const std::vector<CacheRun>& runs) {
    std::vector<std::int32_t> id;
    for (const CacheRun& run : runs) {
      const auto news = texts[static_cast<std::size_t>(run.seq)].window().last(static_cast<std::size_t>(run.count));
      id.insert(id.end(), news.begin(), news.end());
    }
    pass_.extend(runs, id);
    const Mat logits = pass_.logits();
    for (std::size_t i = 0; i < runs.size(); ++i) {
      const auto* row = static_cast<const float*>(logits.row(static_cast<std::int64_t>(i)));
      texts[static_cast<std::size_t>(runs[i].seq)].add({row, static_cast<std::size_t>(logits.cols)}, o_, tokenizer_);
    }
  }

  EvalModel& model_;
  const GenerateOptions& o_;
  const Tokenizer& tokenizer_;
  KvCache cache_;
  Pass pass_;
};

// Texts at a time on a rank: weights are read once for all of them.
int texts_at_a_time(const EvalModel& model, std::int64_t num_texts) {
  constexpr std::int64_t kMost = 16;
  const std::int64_t ranks = model.world().size();
  return model.batch() > 0 ? model.batch()
                           : static_cast<int>(std::clamp<std::int64_t>((num_texts + ranks - 1) / ranks, 1, kMost));
}

}  // namespace

std::vector<TextMade> make_texts(EvalModel& model, const std::vector<TextWanted>& wanted, const GenerateOptions& options,
                                 std::uint64_t seed, const Tokenizer& tokenizer) {
  World& world = model.world();
  const auto n = static_cast<std::int64_t>(wanted.size());
  const int room = texts_at_a_time(model, n);
  const std::int64_t together = std::int64_t{room} * world.size();
  Group group(model, options, tokenizer, room);
  nlohmann::json mine = nlohmann::json::array();
  for (std::int64_t begin = 0; begin < n && options.tokens > 0; begin += together) {
    const std::int64_t count = std::min(together, n - begin);
    std::vector<Text> texts;
    for (std::int64_t i = begin + count * world.rank() / world.size(); i < begin + count * (world.rank() + 1) / world.size();
         ++i)
      texts.emplace_back(wanted[static_cast<std::size_t>(i)], static_cast<std::size_t>(i), seed);
    group.run(texts);
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
