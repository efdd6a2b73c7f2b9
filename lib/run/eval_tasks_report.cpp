#include "lib/run/eval_tasks_report.h"

#include <cstdio>
#include <nlohmann/json.hpp>

#include "lib/base/provenance.h"
#include "lib/run/eval_tasks_text.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

using nlohmann::json;

constexpr const char* kProtocol = "lm-evaluation-harness";
constexpr const char* kProtocolVersion = "0.4";

json metrics_json(const std::vector<Metric>& metrics) {
  json object = json::object();
  for (const Metric& m : metrics)
    object[m.name] = {{"value", m.value}, {"stderr", m.stderror ? json(*m.stderror) : json(nullptr)}};
  return object;
}

std::int64_t num_tokens_of(const TaskResult& r) {
  std::int64_t n = 0;
  for (const ScoreRequest& q : r.requests) n += static_cast<std::int64_t>(q.context.size() + q.continuation.size());
  return n;
}

json task_json(const TaskResult& r, const EvalTaskOptions& o) {
  json task = {{"task", r.name},
               {"protocol", {{"name", kProtocol}, {"version", kProtocolVersion}, {"task_version", r.format->version}}},
               {"data", {{"files", r.data.files}, {"xxh3_128", r.data.digest}, {"bad_lines", r.data.num_bad}}},
               {"shots", o.shots},
               {"n", r.data.items.size()},
               {"requests", r.requests.size()},
               {"tokens", num_tokens_of(r)},
               {"cut", {{"items", r.num_cut_items}, {"tokens", r.num_cut_tokens}}},
               {"unconditioned", r.num_unconditioned},
               {"metrics", metrics_json(r.metrics)}};
  if (!r.shots_digest.empty()) task["shots_xxh3_128"] = r.shots_digest;
  for (const SubjectResult& s : r.subjects)
    task["subjects"].push_back({{"subject", s.subject}, {"n", s.num_items}, {"metrics", metrics_json(s.metrics)}});
  return task;
}

std::string figure(double x) {
  char text[32];
  std::snprintf(text, sizeof text, x < 1e6 ? "%.4f" : "%.4g", x);
  return text;
}

void add_rows(TextTable& table, const std::string& name, std::size_t n, std::int64_t shots,
              const std::vector<Metric>& metrics) {
  bool first = true;
  for (const Metric& m : metrics) {
    table.add({first ? name : "", first ? thousands(static_cast<std::int64_t>(n)) : "", first ? std::to_string(shots) : "",
               m.name, figure(m.value), m.stderror ? figure(*m.stderror) : "-"});
    first = false;
  }
}

// What a reader must know who compares the figures with others.
std::string notes_of(const TaskResult& r) {
  std::string text =
      labelled("data", r.name + " " + r.data.digest + " " + r.data.files[0] +
                           (r.data.files.size() > 1 ? " and " + std::to_string(r.data.files.size() - 1) + " more" : ""));
  const auto note = [&](std::int64_t n, const std::string& what) {
    if (n > 0) text += labelled("note", r.name + ": " + thousands(n) + " " + what);
  };
  note(r.data.num_bad, "bad lines left out");
  note(r.num_cut_items, "of " + thousands(static_cast<std::int64_t>(r.data.items.size())) +
                            " contexts longer than the window, cut at the left, " + thousands(r.num_cut_tokens) +
                            " tokens in all");
  note(r.num_unconditioned, "continuations without a context, their first token not scored (--bos-token)");
  return text;
}

std::vector<std::string> all_of(const EvalItem& item, const std::string& before, bool contexts) {
  std::vector<std::string> texts;
  for (std::size_t i = 0; i < (contexts ? item.contexts : item.continuations).size(); ++i)
    texts.push_back(contexts ? before + item.context(i) : item.continuation(i));
  return texts;
}

json sample_json(const TaskResult& r, std::size_t i) {
  const EvalItem& item = r.data.items[i];
  const ItemScore& score = r.scores[i];
  json line = {{"task", r.name},
               {"where", item.where},
               {"contexts", all_of(item, r.before[i], true)},
               {"continuations", all_of(item, r.before[i], false)},
               {"cut", score.num_cut},
               {"acc", score.right ? 1 : 0}};
  for (const ScoreResult& q : score.results) {
    line["log_likelihood"].push_back(q.log_likelihood);
    line["greedy"].push_back(q.is_greedy);
    line["tokens"].push_back(q.num_scored);
  }
  if (!item.subject.empty()) line["subject"] = item.subject;
  if (item.is_cloze()) return line;
  line["gold"] = item.gold;
  line["chosen"] = score.chosen;
  if (!r.format->normalised) return line;
  for (const std::string& c : item.choices) {
    line["characters"].push_back(num_characters(c));
    line["bytes"].push_back(c.size());
  }
  line.update({{"chosen_norm", score.chosen_norm},
               {"acc_norm", score.right_norm ? 1 : 0},
               {"chosen_bytes", score.chosen_bytes},
               {"acc_bytes", score.right_bytes ? 1 : 0}});
  return line;
}

}  // namespace

json eval_tasks_json(const std::vector<TaskResult>& results, const EvalTaskOptions& o, const Tokenizer& tokenizer,
                     const Invocation& invocation) {
  json list = json::array();
  for (const TaskResult& r : results) list.push_back(task_json(r, o));
  json object = {{"kind", "moe-eval tasks"},
                 {"version", version_text()},
                 {"argv", invocation.argv},
                 {"tokenizer", tokenizer.name()},
                 {"bos_token", o.bos_token >= 0 ? json(o.bos_token) : json(nullptr)},
                 {"add_bos", o.add_bos},
                 {"limit", o.limit > 0 ? json(o.limit) : json(nullptr)},
                 {"stderr", "sample deviation / sqrt(n), items independent; perplexity by the delta method"},
                 {"tasks", list}};
  if (o.shots > 0) object["shot_order"] = "the first of the file";
  return object;
}

std::string eval_tasks_table(const std::vector<TaskResult>& results, const EvalTaskOptions& o) {
  TextTable table({"task", ">n", ">shots", "metric", ">value", ">stderr"});
  std::string notes;
  for (const TaskResult& r : results) {
    if (r.scores.empty())
      table.add({r.name, thousands(static_cast<std::int64_t>(r.data.items.size())), std::to_string(o.shots),
                 "tokens to read", thousands(num_tokens_of(r)), ""});
    add_rows(table, r.name, r.data.items.size(), o.shots, r.metrics);
    for (const SubjectResult& s : r.subjects) add_rows(table, "  " + s.subject, s.num_items, o.shots, s.metrics);
    notes += notes_of(r);
  }
  return table.text() + "\n" +
         labelled("protocol", std::string(kProtocol) + " " + kProtocolVersion + ", limit " +
                                  (o.limit > 0 ? std::to_string(o.limit) : "none") + ", " +
                                  (o.bos_token < 0 ? "no BOS token"
                                   : o.add_bos     ? "BOS token before every context"
                                                   : "BOS token for empty contexts only")) +
         notes;
}

std::string eval_samples_jsonl(const std::vector<TaskResult>& results) {
  std::string text;
  for (const TaskResult& r : results)
    for (std::size_t i = 0; i < r.scores.size(); ++i)
      text += sample_json(r, i).dump(-1, ' ', false, json::error_handler_t::replace) + "\n";
  return text;
}

}  // namespace moe
