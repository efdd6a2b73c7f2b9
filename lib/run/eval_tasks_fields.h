// The fields of one line of an evaluation file, checked as they are read: Error 65 says the line, the field, what was
// expected and what is there. Not here: which fields a task has (eval_tasks_format.cpp).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace moe {

inline constexpr const char* kSkipHint = "--skip-bad N leaves out N such lines";

class EvalFields {
 public:
  EvalFields(const nlohmann::json& object, std::string where);

  bool has(const std::string& name) const { return object_.contains(name); }
  const nlohmann::json& at(const std::string& name) const;
  const std::string& text(const std::string& name) const;
  std::vector<std::string> texts(const std::string& name) const;  // a list of at least two
  // A number, or its digits as text, in [first, first + n); returned less `first`.
  int index(const std::string& name, int n, int first = 0) const;
  bool yes_or_no(const std::string& name) const;  // true, false, 1 or 0
  [[noreturn]] void refuse(const std::string& name, const std::string& expected) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

// Choices with a label each. HF's form is {"text": [...], "label": [...]}, AI2's is [{"text": ..., "label": ...}, ...].
struct LabelledChoices {
  std::vector<std::string> texts, labels;
};
LabelledChoices labelled_choices(const nlohmann::json& choices, const std::string& where);

}  // namespace moe
