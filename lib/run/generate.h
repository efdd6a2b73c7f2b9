// Continuations of prompts by a model, with a cache of keys and values (lib/model/kv_cache.h). Not here: how a token is
// chosen (sampling.h), the loop over passes (generate_loop.h).
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "lib/model/model.h"
#include "lib/run/sampling.h"

namespace moe {

class Tokenizer;

// A model that makes texts, on the ranks of its mesh.
struct TextModel {
  Model& model;
  World& world;
  Env env;
  int seq;        // tokens of a window
  int batch = 0;  // texts at a time on each rank; 0: chosen
};

struct TextOptions {
  int tokens = 100;  // of a continuation, at most
  Sampling sampling;
  bool speculate = false;         // with drafts of the model's modules of multi-token prediction
  int drafts = 0;                 // of a pass of the model at most; 0: as many as there are modules
  std::vector<std::string> stop;  // texts that end a continuation; they are not part of it
};

struct Prompt {
  nlohmann::json object;  // what it came from; of moe-eval the line of a file
  std::string text;
  std::vector<std::int32_t> tokens;  // at least one
};

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
std::vector<TextMade> make_texts(const TextModel& model, const std::vector<TextWanted>& wanted, const TextOptions& options,
                                 std::uint64_t seed, const Tokenizer& tokenizer);
// Texts at a time on all ranks: weights are read once for those of a rank.
std::int64_t texts_together(const TextModel& model, std::int64_t num_texts);

}  // namespace moe
