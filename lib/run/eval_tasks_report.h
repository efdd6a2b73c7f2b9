// What moe-eval tasks found: table, JSON, and one line of JSON per item. Not here: how it was found (eval_tasks_score.h).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "lib/run/eval_tasks.h"
#include "lib/run/eval_tasks_read.h"
#include "lib/run/eval_tasks_score.h"

namespace moe {

struct SubjectResult {
  std::string subject;
  std::size_t num_items = 0;
  std::vector<Metric> metrics;
};

struct TaskResult {
  std::string name;  // as in --task
  const TaskFormat* format = nullptr;
  EvalData data;
  std::string shots_digest;             // empty without examples
  std::vector<std::string> before;      // what stands before each item's own context
  std::vector<ScoreRequest> requests;   // of all items, in order
  std::vector<ItemScore> scores;        // of the items; empty under --dry-run
  std::vector<Metric> metrics;          // of the whole
  std::vector<SubjectResult> subjects;  // of MMLU
  std::int64_t num_cut_items = 0, num_cut_tokens = 0;
  std::int64_t num_unconditioned = 0;  // requests whose first token was not scored, for want of a context
};

nlohmann::json eval_tasks_json(const std::vector<TaskResult>& results, const EvalTaskOptions& options,
                               const Tokenizer& tokenizer, const Invocation& invocation);
std::string eval_tasks_table(const std::vector<TaskResult>& results, const EvalTaskOptions& options);
// A JSON object per item and line: task, where, subject, gold, what was scored after what, the figures of each request.
std::string eval_samples_jsonl(const std::vector<TaskResult>& results);

}  // namespace moe
