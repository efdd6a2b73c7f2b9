// moe-eval generate: continuations of prompts with a checkpoint. Not here: how texts are made (generate.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/run/eval_model.h"
#include "lib/run/generate.h"

namespace moe {

struct GenerateOptions : TextOptions {
  std::string prompt;                   // one
  std::string prompts;                  // or a file of them, an object of JSON a line
  std::string prompt_field = "prompt";  // of these objects
  int samples = 1;                      // continuations of each prompt
  std::int64_t skip_bad = 0;            // lines of the file that may be no prompt
  bool strict = false;                  // a prompt that is longer than the window is an error
  std::string output;                   // of --prompts: JSONL
};
void add_generate_options(Options& options, GenerateOptions& generate);
void check_generate_options(const Options& options, const GenerateOptions& generate);  // Error(kUsage)

struct Prompts {
  std::vector<Prompt> list;
  std::int64_t num_bad = 0;  // lines left out
};
// text: JSON lines. Error(kBadInput) naming path and line of the first beyond skip_bad that is no prompt of at least one
// token.
Prompts parse_prompts(const std::string& text, const std::string& path, const GenerateOptions& options,
                      const Tokenizer& tokenizer);

Exit eval_generate(const std::string& path, const GenerateOptions& options, const EvalModelOptions& model,
                   const CommonOptions& common, World& world, Env env);

}  // namespace moe
