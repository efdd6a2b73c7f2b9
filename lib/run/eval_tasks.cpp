#include "lib/run/eval_tasks.h"

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "lib/base/log.h"
#include "lib/io/files.h"
#include "lib/run/eval_tasks_report.h"
#include "lib/run/result.h"

namespace moe {
namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;  // name, path

// "NAME=FILE" words; a word without = is a name, and the next of `files` is its file.
Pairs task_pairs(const EvalTaskOptions& o) {
  Pairs pairs;
  std::size_t next_file = 0;
  for (const std::string& word : o.tasks) {
    const std::size_t equals = word.find('=');
    if (equals == std::string::npos && next_file == o.files.size())
      throw Error(Exit::kUsage,
                  "--task: expected NAME=FILE, or a --file for each name, found '" + word + "' without a file");
    pairs.emplace_back(word.substr(0, equals), equals == std::string::npos ? o.files[next_file++] : word.substr(equals + 1));
  }
  if (pairs.empty()) throw Error(Exit::kUsage, "expected --task NAME=FILE, found none");
  if (next_file != o.files.size())
    throw Error(Exit::kUsage, "--file: expected one for each --task NAME without =FILE, that is " +
                                  std::to_string(next_file) + ", found " + std::to_string(o.files.size()));
  for (const auto& [name, path] : pairs)
    if (std::count_if(pairs.begin(), pairs.end(), [&](const auto& p) { return p.first == name; }) > 1)
      throw Error(Exit::kUsage, "--task: expected each name once, found '" + name + "' twice",
                  "NAME:LABEL=FILE tells two files of one task apart");
  return pairs;
}

// "arc_easy:dev" is the task arc_easy.
const TaskFormat& format_of(const std::string& name) { return task_format(name.substr(0, name.find(':'))); }

// The file of examples of the task; "" without examples.
std::string shots_path(const EvalTaskOptions& o, const std::string& task, std::size_t num_tasks) {
  if (o.shots == 0) return "";
  for (const std::string& word : o.shots_files) {
    if (word.starts_with(task + "=")) return word.substr(task.size() + 1);
    if (num_tasks == 1 && word.find('=') == std::string::npos) return word;
  }
  throw Error(Exit::kUsage,
              "--shots " + std::to_string(o.shots) + ": expected a file of examples for " + task + ", found none",
              "--shots-file " + task + "=FILE");
}

void check_options(const EvalTaskOptions& o, const Tokenizer& tokenizer) {
  const auto not_negative = [](const char* name, std::int64_t n) {
    if (n < 0) throw Error(Exit::kUsage, std::string(name) + ": expected 0 or more, found " + std::to_string(n));
  };
  not_negative("--shots", o.shots);
  not_negative("--limit", o.limit);
  not_negative("--skip-bad", o.skip_bad);
  if (o.shots == 0 && !o.shots_files.empty())
    throw Error(Exit::kUsage, "--shots-file: expected --shots N with it, found none");
  if (o.bos_token < -1 || o.bos_token >= tokenizer.vocab_size())
    throw Error(Exit::kUsage, "--bos-token: expected -1 (none) or an id below " + std::to_string(tokenizer.vocab_size()) +
                                  ", found " + std::to_string(o.bos_token));
  if (o.add_bos && o.bos_token < 0) throw Error(Exit::kUsage, "--add-bos: expected --bos-token ID with it, found none");
}

// The first items of each subject.
void keep_first(std::vector<EvalItem>& items, std::int64_t limit) {
  std::map<std::string, std::int64_t> num_seen;
  if (limit > 0) std::erase_if(items, [&](const EvalItem& item) { return ++num_seen[item.subject] > limit; });
}

TaskResult prepare(const EvalTaskOptions& o, const std::string& name, const std::string& path, const std::string& shots,
                   const Tokenizer& tokenizer) {
  TaskResult r{.name = name, .format = &format_of(name)};
  r.data = read_eval_data(path, *r.format, o.skip_bad);
  keep_first(r.data.items, o.limit);
  EvalData examples;
  if (!shots.empty()) examples = read_eval_data(shots, *r.format, o.skip_bad);
  r.shots_digest = examples.digest;
  for (const EvalItem& item : r.data.items) {
    r.before.push_back(text_before(item, examples.items, o.shots, examples.digest == r.data.digest));
    for (ScoreRequest& q : requests_of(item, r.before.back(), tokenizer, {o.bos_token, o.add_bos})) {
      r.num_unconditioned += q.context.empty();
      q.where = item.where;
      r.requests.push_back(std::move(q));
    }
  }
  return r;
}

// Figures of each subject, by name, and of all.
void sum_up_subjects(TaskResult& r) {
  std::map<std::string, std::pair<std::vector<EvalItem>, std::vector<ItemScore>>> parts;
  for (std::size_t i = 0; i < r.scores.size(); ++i) {
    auto& [items, scores] = parts[r.data.items[i].subject];
    items.push_back(r.data.items[i]);
    scores.push_back(r.scores[i]);
  }
  std::vector<Metric> acc;
  std::vector<std::size_t> sizes;
  for (const auto& [subject, part] : parts) {
    r.subjects.push_back({subject, part.first.size(), metrics_of(part.first, part.second, r.format->normalised)});
    acc.push_back(r.subjects.back().metrics[0]);
    sizes.push_back(part.first.size());
  }
  r.metrics = metrics_over_subjects(acc, sizes);
}

void sum_up(TaskResult& r, const std::vector<ScoreResult>& results, const EvalTaskOptions& o) {
  if (results.size() != r.requests.size())
    throw Error(Exit::kInternal, r.name + ": expected " + std::to_string(r.requests.size()) + " scores, found " +
                                     std::to_string(results.size()));
  std::size_t at = 0;
  for (const EvalItem& item : r.data.items) {
    r.scores.push_back(score_item(item, std::span(results).subspan(at, item.num_requests())));
    at += item.num_requests();
    const std::int64_t num_cut = r.scores.back().num_cut;
    r.num_cut_items += num_cut > 0;
    r.num_cut_tokens += num_cut;
    if (o.strict && num_cut > 0)
      throw Error(
          Exit::kBadInput,
          item.where + ": expected a context within the window, found " + std::to_string(num_cut) + " tokens too many",
          "without --strict they are cut off at the left and counted");
  }
  if (r.data.items[0].subject.empty())
    r.metrics = metrics_of(r.data.items, r.scores, r.format->normalised);
  else
    sum_up_subjects(r);
}

}  // namespace

void add_eval_task_options(Options& o, EvalTaskOptions& t) {
  std::string names;
  for (const std::string& name : task_format_names()) names += (names.empty() ? "" : ", ") + name;
  o.group("Tasks");
  o.add("task", t.tasks,
        "tasks and their files (JSONL in the fields of the published data set; for mmlu also CSV and directories): " +
            names + " (JSONL of prompt, choices, answer). NAME:LABEL=FILE where a task has several files")
      .value = "NAME=FILE";
  o.add("file", t.files, "files of the tasks that were named without one").value = "FILE";
  o.add("shots", t.shots, "examples before each question, the first of --shots-file");
  o.add("shots-file", t.shots_files, "files of examples, in the form of the task").value = "[NAME=]FILE";
  o.add("limit", t.limit, "only the first items of each task, for mmlu of each subject; 0: all");
  o.add("skip-bad", t.skip_bad, "so many malformed lines of a task are left out and counted");
  o.add("strict", t.strict, "a context longer than the window is an error, not cut at the left");
  o.add("bos-token", t.bos_token, "id of the token that stands for an empty context; -1: none");
  o.add("add-bos", t.add_bos, "--bos-token also before every other context, for models trained so");
  o.add("samples-out", t.samples_output, "what was scored for each item, a line of JSON each").value = "FILE.jsonl";
}

Exit eval_tasks(const EvalTaskOptions& o, const CommonOptions& common, const Invocation& invocation,
                const ScoreFunction& score, const Tokenizer& tokenizer, World& world) {
  std::vector<TaskResult> results;
  std::optional<PendingFile> samples;
  const bool writes = world.rank() == 0;
  world.agree([&] {
    check_options(o, tokenizer);
    const Pairs pairs = task_pairs(o);
    for (const auto& [name, path] : pairs) format_of(name), shots_path(o, name, pairs.size());
    if (writes && !o.samples_output.empty() && !common.dry_run) samples.emplace(o.samples_output, common.force);
    for (const auto& [name, path] : pairs)
      results.push_back(prepare(o, name, path, shots_path(o, name, pairs.size()), tokenizer));
  });
  std::vector<std::string> facts;
  for (const TaskResult& r : results) facts.push_back("data of " + r.name + "=" + r.data.digest + r.shots_digest);
  world.require_same(facts);
  for (std::size_t i = 0; i < results.size() && !common.dry_run; ++i) {
    const std::vector<ScoreResult> scored = score(results[i].requests);
    world.agree([&] { sum_up(results[i], scored, o); });
  }
  world.agree([&] {
    if (samples) {
      write_text_file(samples->temporary_path(), eval_samples_jsonl(results));
      samples->commit();
    }
    if (writes) print_result(common, eval_tasks_json(results, o, tokenizer, invocation), eval_tasks_table(results, o));
  });
  return Exit::kOk;
}

}  // namespace moe
