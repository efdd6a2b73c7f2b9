// Texts of all ranks: who makes which, and how they come together. Not here: the loop (generate_loop.h), prompts, output.
#include "lib/run/generate.h"

#include <algorithm>

#include "lib/comm/collectives.h"
#include "lib/run/generate_loop.h"
#include "lib/run/world_text.h"

namespace moe {
namespace {

int texts_of_rank(const TextModel& model, std::int64_t num_texts) {
  constexpr std::int64_t kMost = 16;
  const std::int64_t ranks = model.world.size();
  return model.batch > 0 ? model.batch
                         : static_cast<int>(std::clamp<std::int64_t>((num_texts + ranks - 1) / ranks, 1, kMost));
}

}  // namespace

DraftCounts& DraftCounts::operator+=(const DraftCounts& other) {
  num_passes += other.num_passes, num_tokens += other.num_tokens;
  const std::size_t n = std::max(made_N.size(), other.made_N.size());
  made_N.resize(n), accepted_N.resize(n);
  for (std::size_t i = 0; i < other.made_N.size(); ++i) made_N[i] += other.made_N[i], accepted_N[i] += other.accepted_N[i];
  return *this;
}

std::int64_t texts_together(const TextModel& model, std::int64_t num_texts) {
  return std::int64_t{texts_of_rank(model, num_texts)} * model.world.size();
}

std::vector<TextMade> make_texts(const TextModel& model, const std::vector<TextWanted>& wanted, const TextOptions& options,
                                 std::uint64_t seed, const Tokenizer& tokenizer) {
  World& world = model.world;
  const auto n = static_cast<std::int64_t>(wanted.size());
  const std::int64_t together = texts_together(model, n);
  GenerateLoop loop(model, options, tokenizer, texts_of_rank(model, n));
  nlohmann::json mine = nlohmann::json::array();
  for (std::int64_t begin = 0; begin < n && options.tokens > 0; begin += together) {
    const std::int64_t count = std::min(together, n - begin);
    std::vector<Text> texts;
    for (std::int64_t i = begin + count * world.rank() / world.size(); i < begin + count * (world.rank() + 1) / world.size();
         ++i)
      texts.emplace_back(wanted[static_cast<std::size_t>(i)], static_cast<std::size_t>(i), seed);
    loop.run(texts);
    for (const Text& t : texts) mine.push_back(t.json(tokenizer));
  }
  std::vector<std::string> all = {mine.dump()};
  if (!world.alone()) world.lane().call("texts", [&] { all = gather_texts_at_first(world.comm(), "texts", mine.dump()); });
  std::vector<TextMade> made(world.rank() == 0 ? wanted.size() : 0);
  for (const std::string& text : all)
    for (const auto& t : nlohmann::json::parse(text)) {
      auto [number, one] = Text::made_of(t);
      made[number] = std::move(one);
    }
  return made;
}

}  // namespace moe
