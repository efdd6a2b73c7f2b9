// Tasks that lm-evaluation-harness and this tool both know: what a line of their published data becomes. The exact texts are
// facts of its task files (lm_eval/tasks/*/*.yaml, 0.4); `version` is that of the task there.
// Not here: files and lines (eval_tasks_read.h), tokens (eval_tasks_score.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace moe {

// One question. Request i is continuation i after context i; where there is one of either, all requests share it.
struct EvalItem {
  std::string where;    // FILE:LINE
  std::int64_t number;  // of the line, from 1
  std::string subject;  // of MMLU, else empty
  std::string description;
  std::vector<std::string> contexts, continuations;  // a continuation begins with the delimiter, " "
  std::vector<std::string> choices;                  // whose lengths normalise; empty in a cloze
  int gold = 0;                                      // the right choice; 0 in a cloze

  std::size_t num_requests() const { return std::max(contexts.size(), continuations.size()); }
  const std::string& context(std::size_t i) const { return contexts[contexts.size() == 1 ? 0 : i]; }
  const std::string& continuation(std::size_t i) const { return continuations[continuations.size() == 1 ? 0 : i]; }
  bool is_cloze() const { return choices.empty(); }
};

// The question with its answer, as an example before other questions.
std::string shot_text(const EvalItem& item);

struct TaskFormat {
  const char* name;
  const char* version;
  bool normalised;  // lm-evaluation-harness reports acc_norm, too
  // Fields, all but where and number, of one line; Error 65 that begins with `where`.
  EvalItem (*read)(const nlohmann::json& line, const std::string& where);
};

// Error(kUsage) with the nearest name. "choices" is for JSONL of one's own: prompt, choices, answer.
const TaskFormat& task_format(const std::string& name);
std::vector<std::string> task_format_names();

}  // namespace moe
