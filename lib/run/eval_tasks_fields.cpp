#include "lib/run/eval_tasks_fields.h"

#include "lib/base/error.h"

namespace moe {
namespace {

std::string found_text(const nlohmann::json& value) {
  const std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() <= 60 ? text : text.substr(0, 57) + "...";
}

}  // namespace

EvalFields::EvalFields(const nlohmann::json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object_.is_object())
    throw Error(Exit::kBadInput, where_ + ": expected a JSON object, found " + found_text(object_), kSkipHint);
}

void EvalFields::refuse(const std::string& name, const std::string& expected) const {
  const std::string found = has(name) ? found_text(object_.at(name)) : "none";
  throw Error(Exit::kBadInput, where_ + ": field '" + name + "': expected " + expected + ", found " + found, kSkipHint);
}

const nlohmann::json& EvalFields::at(const std::string& name) const {
  if (!has(name)) refuse(name, "a value");
  return object_.at(name);
}

const std::string& EvalFields::text(const std::string& name) const {
  if (!has(name) || !object_.at(name).is_string()) refuse(name, "a text");
  return object_.at(name).get_ref<const std::string&>();
}

std::vector<std::string> EvalFields::texts(const std::string& name) const {
  const bool is_list = has(name) && object_.at(name).is_array() && object_.at(name).size() >= 2;
  if (!is_list) refuse(name, "a list of two texts or more");
  for (const nlohmann::json& each : object_.at(name))
    if (!each.is_string()) refuse(name, "a list of texts only");
  return object_.at(name).get<std::vector<std::string>>();
}

int EvalFields::index(const std::string& name, int n, int first) const {
  const std::string expected = "a number from " + std::to_string(first) + " to " + std::to_string(first + n - 1);
  if (!has(name)) refuse(name, expected);
  const nlohmann::json& value = object_.at(name);
  const std::string digits = value.is_string() ? value.get<std::string>() : value.is_number_integer() ? value.dump() : "";
  for (int i = first; i < first + n; ++i)
    if (digits == std::to_string(i)) return i - first;
  refuse(name, expected);
}

bool EvalFields::yes_or_no(const std::string& name) const {
  if (has(name) && object_.at(name).is_boolean()) return object_.at(name).get<bool>();
  return index(name, 2) == 1;
}

LabelledChoices labelled_choices(const nlohmann::json& choices, const std::string& where) {
  LabelledChoices all;
  if (choices.is_array()) {
    for (const nlohmann::json& each : choices) {
      const EvalFields choice(each, where + ": choices");
      all.texts.push_back(choice.text("text"));
      all.labels.push_back(choice.text("label"));
    }
  } else {
    const EvalFields lists(choices, where + ": choices");
    all.texts = lists.texts("text");
    all.labels = lists.texts("label");
  }
  if (all.texts.size() < 2 || all.texts.size() != all.labels.size())
    throw Error(Exit::kBadInput, where + ": field 'choices': expected two or more, with a label each, found " +
                                     std::to_string(all.texts.size()) + " texts and " + std::to_string(all.labels.size()) +
                                     " labels");
  return all;
}

}  // namespace moe
