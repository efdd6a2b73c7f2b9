// moe-eval generate: continuations of prompts, with a cache of keys and values (lib/model/kv_cache.h). Not here: how a token
// is chosen (sampling.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/run/eval_model.h"
#include "lib/run/sampling.h"

namespace moe {

struct GenerateOptions {
  std::string prompt;                   // one
  std::string prompts;                  // or a file of them, an object of JSON a line
  std::string prompt_field = "prompt";  // of these objects
  int tokens = 100;                     // of a continuation, at most
  int samples = 1;                      // continuations of each prompt
  Sampling sampling;
  bool speculate = false;         // with drafts of the model's modules of multi-token prediction
  int drafts = 0;                 // of a pass of the model at most; 0: as many as there are modules
  std::vector<std::string> stop;  // texts that end a continuation; they are not part of it
  std::int64_t skip_bad = 0;      // lines of the file that may be no prompt
  bool strict = false;            // a prompt that is longer than the window is an error
  std::string output;             // of --prompts: JSONL
};
void add_generate_options(Options& options, GenerateOptions& generate);
void check_generate_options(const Options& options, const GenerateOptions& generate);  // Error(kUsage)

struct Prompt {
  nlohmann::json object;  // the line that it came from
  std::string text;
  std::vector<std::int32_t> tokens;
};
struct Prompts {
  std::vector<Prompt> list;
  std::int64_t num_bad = 0;  // lines left out
};
// text: JSON lines. Error(kBadInput) naming path and line of the first beyond skip_bad that is no prompt of at least one
// token.
Prompts parse_prompts(const std::string& text, const std::string& path, const GenerateOptions& options,
                      const Tokenizer& tokenizer);

// One continuation to be made. The random numbers of its tokens are a function of the seed, `number` and `sample` alone.
struct TextWanted {
  const Prompt* prompt = nullptr;
  std::int64_t number = 0, sample = 0;
};
// Drafts of a text by their place behind its last token. One that stands behind another that was not accepted was not
// accepted either.
struct DraftCounts {
  std::int64_t num_passes = 0, num_tokens = 0;  // of the model behind that of the prompt, and what they gave
  std::vector<std::int64_t> made_N, accepted_N;
  DraftCounts& operator+=(const DraftCounts& other);
};
struct TextMade {
  std::vector<std::int32_t> tokens;  // of the continuation
  std::string text;                  // of it, without what stopped it
  bool stopped = false;              // by a stop text
  DraftCounts drafts;                // without speculation there are none, only passes
};
// On rank 0 all of them, in order; on the others nothing. Texts share out over the ranks, `batch` at a time on each. When
// the window is full its second half moves to the front, and is computed anew. With speculation greedy texts are the same,
// and sampled ones have the same distribution. A collective call.
std::vector<TextMade> make_texts(EvalModel& model, const std::vector<TextWanted>& wanted, const GenerateOptions& options,
                                 std::uint64_t seed, const Tokenizer& tokenizer);
// Texts at a time on all ranks: weights are read once for those of a rank.
std::int64_t texts_together(const EvalModel& model, std::int64_t num_texts);

Exit eval_generate(const std::string& path, const GenerateOptions& options, const EvalModelOptions& model,
                   const CommonOptions& common, World& world, Env env);

}  // namespace moe
