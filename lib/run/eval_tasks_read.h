// Evaluation files: JSONL in the fields of the published data sets, and MMLU's CSV. Local files only, checked line by line.
// Not here: what a line becomes (eval_tasks_format.h).
#pragma once

#include <string>
#include <vector>

#include "lib/run/eval_tasks_format.h"

namespace moe {

struct EvalData {
  std::vector<std::string> files;
  std::string digest;  // XXH3-128 of their bytes, one after the other
  std::vector<EvalItem> items;
  std::int64_t num_bad = 0;  // lines left out
};
// path: a file, or a directory, then all its .jsonl and .csv files by name. Error: 66 not there; 65 a line that is no item
// of the format beyond the first skip_bad of them, or not a single item.
EvalData read_eval_data(const std::string& path, const TaskFormat& format, std::int64_t skip_bad);

// One row of CSV (RFC 4180): "" inside quotes is a quote, a quoted cell may hold commas and line ends. `at` and `line` move
// behind the row. Error 65 that begins with `file`.
std::vector<std::string> read_csv_row(std::string_view text, std::size_t& at, std::int64_t& line, const std::string& file);

}  // namespace moe
