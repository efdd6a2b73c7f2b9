#include "lib/run/eval_tasks_format.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "lib/base/error.h"
#include "lib/base/options.h"
#include "lib/run/eval_tasks_fields.h"
#include "lib/run/eval_tasks_text.h"

namespace moe {
namespace {

using nlohmann::json;

// One context, a continuation for each choice.
EvalItem choice_item(std::string context, std::vector<std::string> choices, int gold) {
  EvalItem item;
  item.contexts = {std::move(context)};
  for (const std::string& c : choices) item.continuations.push_back(" " + c);
  item.choices = std::move(choices);
  item.gold = gold;
  return item;
}

EvalItem labelled_item(std::string context, const EvalFields& f, const LabelledChoices& c, std::string_view label) {
  const auto found = std::find(c.labels.begin(), c.labels.end(), label);
  if (found == c.labels.end()) f.refuse("answerKey", "one of the labels of the choices");
  return choice_item(std::move(context), c.texts, static_cast<int>(found - c.labels.begin()));
}

EvalItem read_hellaswag(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  std::vector<std::string> endings = f.texts("endings");
  for (std::string& e : endings) e = clean_hellaswag(e);
  const std::string query = f.text("activity_label") + ": " + f.text("ctx_a") + " " + capitalize(f.text("ctx_b"));
  const int gold = f.index("label", static_cast<int>(endings.size()));
  return choice_item(clean_hellaswag(query), std::move(endings), gold);
}

// HF: the question is a text, choices lie beside it. AI2: {"question": {"stem": ..., "choices": [...]}}.
EvalItem read_arc(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  const bool nested = f.at("question").is_object();
  const EvalFields q(nested ? f.at("question") : line, where);
  const std::string& question = q.text(nested ? "stem" : "question");
  return labelled_item("Question: " + question + "\nAnswer:", f, labelled_choices(q.at("choices"), where),
                       f.text("answerKey"));
}

// The stem alone is the context. Both forms as with ARC.
EvalItem read_openbookqa(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  const bool nested = f.has("question") && f.at("question").is_object();
  const EvalFields q(nested ? f.at("question") : line, where);
  return labelled_item(q.text(nested ? "stem" : "question_stem"), f, labelled_choices(q.at("choices"), where),
                       strip_left(f.text("answerKey")));
}

EvalItem read_piqa(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  return choice_item("Question: " + f.text("goal") + "\nAnswer:", {f.text("sol1"), f.text("sol2")}, f.index("label", 2));
}

EvalItem read_sciq(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  return choice_item(std::string(strip_left(f.text("support"))) + "\nQuestion: " + f.text("question") + "\nAnswer:",
                     {f.text("distractor1"), f.text("distractor2"), f.text("distractor3"), f.text("correct_answer")}, 3);
}

EvalItem read_boolq(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  const bool yes = f.yes_or_no(f.has("label") ? "label" : "answer");
  return choice_item(f.text("passage") + "\nQuestion: " + f.text("question") + "?\nAnswer:", {"no", "yes"}, yes ? 1 : 0);
}

// Partial scoring: each option stands in the context, and what is scored is the rest of the sentence.
EvalItem read_winogrande(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  const std::string& sentence = f.text("sentence");
  const std::size_t gap = sentence.find('_');
  if (gap == std::string::npos) f.refuse("sentence", "a text with a gap, '_'");
  EvalItem item;
  item.contexts = {sentence.substr(0, gap) + f.text("option1"), sentence.substr(0, gap) + f.text("option2")};
  item.continuations = {" " + std::string(strip(std::string_view(sentence).substr(gap + 1)))};
  item.choices = item.contexts;
  item.gold = f.index("answer", 2, 1);
  return item;
}

// The last word, that is what follows the last space.
EvalItem read_lambada(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  const std::string& text = f.text("text");
  const std::size_t space = text.rfind(' ');
  const std::size_t word = space == std::string::npos ? 0 : space + 1;
  if (word == text.size()) f.refuse("text", "a text that ends with a word");
  EvalItem item;
  item.contexts = {word == 0 ? "" : text.substr(0, space)};
  item.continuations = {" " + text.substr(word)};
  return item;
}

EvalItem read_mmlu(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  const std::vector<std::string> choices = f.texts("choices");
  if (choices.size() != 4) f.refuse("choices", "four texts");
  std::string context(strip(f.text("question")));
  for (std::size_t i = 0; i < 4; ++i) context += std::string("\n") + "ABCD"[i] + ". " + choices[i];
  EvalItem item = choice_item(context + "\nAnswer:", {"A", "B", "C", "D"}, f.index("answer", 4));
  item.subject = f.text("subject");
  std::string spoken = item.subject;
  std::replace(spoken.begin(), spoken.end(), '_', ' ');
  item.description = "The following are multiple choice questions (with answers) about " + spoken + ".\n\n";
  return item;
}

// The answer is the number of a choice, from 0, or its text.
EvalItem read_choices(const json& line, const std::string& where) {
  const EvalFields f(line, where);
  std::vector<std::string> choices = f.texts("choices");
  const json& answer = f.at("answer");
  const auto same = std::find(choices.begin(), choices.end(), answer.is_string() ? answer.get<std::string>() : "");
  if (answer.is_string() && same == choices.end()) f.refuse("answer", "the number of a choice, from 0, or its text");
  const int gold =
      answer.is_string() ? static_cast<int>(same - choices.begin()) : f.index("answer", static_cast<int>(choices.size()));
  return choice_item(f.text("prompt"), std::move(choices), gold);
}

constexpr TaskFormat kFormats[] = {
    {"hellaswag", "1.0", true, read_hellaswag},
    {"arc_easy", "1.0", true, read_arc},
    {"arc_challenge", "1.0", true, read_arc},
    {"piqa", "1.0", true, read_piqa},
    {"openbookqa", "1.0", true, read_openbookqa},
    {"sciq", "1.0", true, read_sciq},
    {"winogrande", "1.0", false, read_winogrande},
    {"lambada_openai", "1.0", false, read_lambada},
    {"lambada_standard", "1.0", false, read_lambada},
    {"mmlu", "1.0", false, read_mmlu},
    {"boolq", "2.0", false, read_boolq},
    {"choices", "1.0", true, read_choices},
};

}  // namespace

// Two spaces before a cloze's word: the harness puts its delimiter before targets that bring their own.
std::string shot_text(const EvalItem& item) {
  const auto gold = static_cast<std::size_t>(item.gold);
  return item.context(gold) + (item.is_cloze() ? " " : "") + item.continuation(gold);
}

std::vector<std::string> task_format_names() {
  std::vector<std::string> names;
  for (const TaskFormat& f : kFormats) names.push_back(f.name);
  return names;
}

const TaskFormat& task_format(const std::string& name) {
  for (const TaskFormat& f : kFormats)
    if (name == f.name) return f;
  std::string all;
  for (const std::string& each : task_format_names()) all += (all.empty() ? "" : ", ") + each;
  const std::string near = nearest_name(name, task_format_names());
  throw Error(Exit::kUsage, "--task: expected one of " + all + ", found '" + name + "'",
              near.empty() ? "choices reads JSONL of your own: prompt, choices, answer" : "did you mean " + near + "?");
}

}  // namespace moe
