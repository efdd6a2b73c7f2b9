// moe-eval tasks: multiple-choice and cloze questions from local files, scored by the rules of lm-evaluation-harness.
// Not here: the rules (eval_tasks_format.h, eval_tasks_score.h), the model (eval_score.h).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/common_options.h"
#include "lib/base/error.h"
#include "lib/comm/world.h"
#include "lib/io/tokens.h"
#include "lib/run/eval_score.h"

namespace moe {

struct EvalTaskOptions {
  std::vector<std::string> tasks, files;  // "NAME=FILE" each, or a name each and a file each
  std::int64_t shots = 0;                 // examples before each question
  std::vector<std::string> shots_files;   // "NAME=FILE", or just FILE for a single task
  std::int64_t limit = 0;                 // items of a task, for MMLU of a subject; 0: all
  std::int64_t skip_bad = 0;              // lines of a task that may be no item
  bool strict = false;                    // a context that was cut is an error
  int bos_token = -1;
  bool add_bos = false;
  std::string samples_output;
};
void add_eval_task_options(Options& options, EvalTaskOptions& tasks);

// Every rank of the mesh calls; each reads the files itself. Rank 0 prints the table and writes --json and --samples-out.
Exit eval_tasks(const EvalTaskOptions& tasks, const CommonOptions& common, const Invocation& invocation,
                const ScoreFunction& score, const Tokenizer& tokenizer, World& world);

}  // namespace moe
