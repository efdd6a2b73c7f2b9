#include "lib/run/generate_loop.h"

#include <algorithm>

#include "kernels/few_rows.h"
#include "lib/comm/collectives.h"

namespace moe {
namespace {

constexpr int kPrefillTokens = 2048;  // of texts that begin in one pass, where windows are shorter

std::int64_t num_tokens(const std::vector<CacheRun>& runs) {
  std::int64_t n = 0;
  for (const CacheRun& run : runs) n += run.count;
  return n;
}

std::span<const float> row_of(CMat logits, std::int64_t row) {
  return {static_cast<const float*>(logits.row(row)), static_cast<std::size_t>(logits.cols)};
}

int num_drafts_of(const TextModel& model, const TextOptions& o) {
  return !o.speculate ? 0 : o.drafts > 0 ? o.drafts : model.model.config().num_mtp_layers;
}

}  // namespace

GenerateLoop::GenerateLoop(const TextModel& model, const TextOptions& options, const Tokenizer& tokenizer, int room)
    : model_(model),
      o_(options),
      tokenizer_(tokenizer),
      num_drafts_(num_drafts_of(model, options)),
      tokens_of_pass_(kFewRows / model.model.mesh().options().shape.ep),
      cache_(model.model.config(), model.model.dtype(), room, model.seq, model.env.stream.device()),
      pass_(model.model,
            {.shape = {std::max(model.seq, std::min(room * model.seq, kPrefillTokens)), 1},
             .training = false,
             .num_modules = num_drafts_ > 0 ? model.model.config().num_mtp_layers : 0,
             .cache = &cache_,
             .max_logits = room * (1 + num_drafts_)},
            model.env) {
  if (num_drafts_ > 0) drafts_.emplace(pass_, cache_, model.model, model.env.stream);
}

void GenerateLoop::run(std::vector<Text>& texts) {
  waiting_.assign(static_cast<std::size_t>(cache_.num_seqs()), {});
  for (int i = 0; i < cache_.num_seqs(); ++i) {
    cache_.set_length(i, 0);
    if (drafts_) drafts_->forget(i);
  }
  World& world = model_.world;
  for (;;) {
    Plan p = plan(texts);
    // Texts that begin go first; ranks that have none of them lend their experts.
    std::int64_t passes[] = {!p.begun.empty(), !p.moved.empty(), static_cast<std::int64_t>(p.going.size())};
    if (!world.alone())
      world.lane().call("generation", [&] { all_reduce_max(world.comm(), "generation", std::span(passes)); });
    const auto& [begun, moved, going] = passes;
    if (begun > 0)
      extend(texts, p.begun);
    else if (moved > 0)
      extend(texts, p.moved);
    else if (going == 0)
      return;
    else
      for (p.going.resize(static_cast<std::size_t>(going)); const auto& runs : p.going) extend(texts, runs);
  }
}

GenerateLoop::Plan GenerateLoop::plan(std::vector<Text>& texts) {
  Plan p;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    Text& text = texts[i];
    if (text.done()) continue;
    const int seq = static_cast<int>(i);
    if (text.moves_on(static_cast<std::size_t>(model_.seq))) {
      cache_.set_length(seq, 0);
      if (drafts_) drafts_->forget(seq);
    }
    const int num_drafts = static_cast<int>(waiting_[i].size()), known = static_cast<int>(text.window().size());
    const CacheRun run{.seq = seq, .count = known - cache_.length(seq) + num_drafts, .num_logits = 1 + num_drafts};
    if (cache_.length(seq) > 0)
      go_on(p, run);
    else if (text.is_begun())
      p.moved = {run};
    else if (num_tokens(p.begun) + run.count <= pass_.shape().num_tokens())
      p.begun.push_back(run);
  }
  return p;
}

void GenerateLoop::go_on(Plan& p, const CacheRun& run) const {
  if (p.going.empty() || num_tokens(p.going.back()) + run.count > tokens_of_pass_) p.going.emplace_back();
  p.going.back().push_back(run);
}

// One token more for the text of each run, or several.
void GenerateLoop::extend(std::vector<Text>& texts, const std::vector<CacheRun>& runs) {
  std::vector<std::int32_t> id;
  for (const CacheRun& run : runs) {
    const auto& drafts = waiting_[static_cast<std::size_t>(run.seq)];
    const auto news =
        texts[static_cast<std::size_t>(run.seq)].window().last(static_cast<std::size_t>(run.count) - drafts.size());
    id.insert(id.end(), news.begin(), news.end());
    for (const DraftedToken& d : drafts) id.push_back(d.token);
  }
  pass_.extend(runs, id);
  const CMat logits = pass_.logits_on_host();
  std::int64_t row = 0, logits_row = 0;
  for (const CacheRun& run : runs) {
    Text& text = texts[static_cast<std::size_t>(run.seq)];
    const bool is_first = cache_.length(run.seq) == run.count;
    const std::size_t before = text.num_made();
    const int accepted = choose(text, run.seq, logits.slice_rows(logits_row, run.num_logits));
    const int wrong = run.num_logits - 1 - accepted;
    cache_.set_length(run.seq, cache_.length(run.seq) - wrong);
    if (!is_first) count(text, run.seq, accepted, static_cast<int>(text.num_made() - before));
    if (drafts_) drafts_->add_hidden(run.seq, pass_.hidden().slice_rows(row, run.count - wrong));
    row += run.count, logits_row += run.num_logits;
  }
  if (drafts_) draft(texts, runs);
}

// Adds tokens to the text up to the first that is no draft. Returns how many drafts stand.
int GenerateLoop::choose(Text& text, int seq, CMat logits_NV) {
  int accepted = 0;
  for (const DraftedToken& d : waiting_[static_cast<std::size_t>(seq)]) {
    const std::size_t n = text.num_made();
    text.add(choose_beside_draft(row_of(logits_NV, accepted), o_.sampling, d, text.uniform(Text::Draw::kAccept, n),
                                 text.uniform(Text::Draw::kChoice, n)),
             o_, tokenizer_);
    if (text.last() != d.token) return accepted;
    ++accepted;
    if (text.done()) return accepted;
  }
  text.add(choose_token(row_of(logits_NV, accepted), o_.sampling, text.uniform(Text::Draw::kChoice, text.num_made())), o_,
           tokenizer_);
  return accepted;
}

void GenerateLoop::count(Text& text, int seq, int accepted, int tokens) {
  const std::size_t made = waiting_[static_cast<std::size_t>(seq)].size();
  DraftCounts c{.num_passes = 1, .num_tokens = tokens, .made_N = {}, .accepted_N = {}};
  c.made_N.assign(made, 1);
  c.accepted_N.assign(made, 0);
  std::fill_n(c.accepted_N.begin(), accepted, 1);
  text.drafts() += c;
}

// Nothing behind the end of the text or of the window, which moves on as it does without drafts.
int GenerateLoop::drafts_wanted(const Text& text) const {
  if (text.done()) return 0;
  const auto left = [](std::int64_t all, std::size_t used) { return all - static_cast<std::int64_t>(used); };
  const std::int64_t room = std::min(left(model_.seq, text.window().size()), left(o_.tokens - 1, text.num_made()));
  return static_cast<int>(std::clamp<std::int64_t>(room, 0, num_drafts_));
}

void GenerateLoop::draft(std::vector<Text>& texts, const std::vector<CacheRun>& runs) {
  std::vector<Drafts::Wanted> wanted;
  for (const CacheRun& run : runs) {
    const Text& text = texts[static_cast<std::size_t>(run.seq)];
    waiting_[static_cast<std::size_t>(run.seq)].clear();
    wanted.push_back({run.seq, text.window(), drafts_wanted(text)});
  }
  drafts_->make(wanted, num_drafts_, [&](std::size_t which, int place, std::span<const float> logits_V) {
    const auto seq = static_cast<std::size_t>(wanted[which].seq);
    const std::size_t n = texts[seq].num_made() + static_cast<std::size_t>(place);
    waiting_[seq].push_back(draft_token(logits_V, o_.sampling, texts[seq].uniform(Text::Draw::kDraft, n)));
    return waiting_[seq].back().token;
  });
}

}  // namespace moe
