// The loop of generation: prompts go into the cache a few at a time, then every unfinished text gets a token in each pass of
// the model, or several where drafts are tried (Leviathan et al. 2023): a pass sees the last token and the drafts behind it,
// and takes as many as the model itself chooses, and one of its own.
// Greedy texts are the same with and without drafts: passes behind the prompts are so small that the bits of a row do not
// depend on the others (kernels/few_rows.h), and windows that move on go one by one. (On a mesh windows of two ranks may
// move on at once: their experts then see other numbers of rows.) Not here: prompts, output, how drafts are made (drafts.h).
#pragma once

#include <optional>

#include "lib/run/drafts.h"
#include "lib/run/generate_text.h"

namespace moe {

class GenerateLoop {
 public:
  // room: texts at a time on this rank.
  GenerateLoop(const TextModel& model, const TextOptions& options, const Tokenizer& tokenizer, int room);
  // Texts of this rank, until those of all ranks are done. Text i has sequence i of the cache. A collective call.
  void run(std::vector<Text>& texts);

 private:
  // Runs of texts that begin, of one whose window has moved on, and of those that go on, a list for each pass.
  struct Plan {
    std::vector<CacheRun> begun, moved;
    std::vector<std::vector<CacheRun>> going;
  };
  Plan plan(std::vector<Text>& texts);
  void go_on(Plan& plan, const CacheRun& run) const;
  void extend(std::vector<Text>& texts, const std::vector<CacheRun>& runs);
  int choose(Text& text, int seq, CMat logits_NV);
  void count(Text& text, int seq, int accepted, int tokens);
  void draft(std::vector<Text>& texts, const std::vector<CacheRun>& runs);
  int drafts_wanted(const Text& text) const;

  TextModel model_;
  const TextOptions& o_;
  const Tokenizer& tokenizer_;
  int num_drafts_;      // 0: without
  int tokens_of_pass_;  // of texts that go on
  KvCache cache_;
  Pass pass_;
  std::optional<Drafts> drafts_;
  std::vector<std::vector<DraftedToken>> waiting_;  // drafts behind each text
};

}  // namespace moe
