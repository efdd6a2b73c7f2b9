// Fields as options: text to value and back. Numbers are read and written as in the C locale, whatever the user's.
#include <charconv>
#include <cmath>
#include <limits>

#include "lib/base/number_text.h"
#include "lib/base/options_parts.h"

namespace moe {
namespace {

const std::string& only_one(const std::vector<std::string>& values) {
  if (values.size() != 1) throw Error(Exit::kUsage, "expected one value, found " + std::to_string(values.size()));
  return values.front();
}

// "a whole number", with the limits of T if that is what was violated.
template <class T>
std::string expected_number(bool out_of_range) {
  if (std::is_floating_point_v<T>) return "a finite number";
  const std::string limits =
      " from " + number_text(std::numeric_limits<T>::min()) + " to " + number_text(std::numeric_limits<T>::max());
  return "a whole number" + (out_of_range || std::is_unsigned_v<T> ? limits : "");
}

template <class T>
T number_of(const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  bool good = error == std::errc() && end == text.data() + text.size() && !text.empty();
  if constexpr (std::is_floating_point_v<T>) good = good && std::isfinite(value);
  if (good) return value;
  const bool out_of_range = error == std::errc::result_out_of_range;
  throw Error(Exit::kUsage, "expected " + expected_number<T>(out_of_range) + ", found \"" + text + "\"");
}

bool bool_of(const std::string& text) {
  if (text == "true" || text == "1" || text == "yes" || text == "on") return true;
  if (text == "false" || text == "0" || text == "no" || text == "off") return false;
  throw Error(Exit::kUsage, "expected true or false, found \"" + text + "\"");
}

int choice_of(const std::string& text, const std::vector<std::string>& choices) {
  for (std::size_t i = 0; i < choices.size(); ++i)
    if (text == choices[i]) return static_cast<int>(i);
  const std::string near = did_you_mean(text, choices);
  throw Error(Exit::kUsage,
              "expected one of " + joined(choices, ", ") + "; found \"" + text + "\"" + (near.empty() ? "" : "; " + near));
}

template <class T>
Option& number_option(Option& option, T& field, const char* placeholder) {
  option.value = placeholder;
  option.set = [&field](const std::vector<std::string>& values) { field = number_of<T>(only_one(values)); };
  option.get = [&field] { return number_text(field); };
  option.default_text = option.get();
  return option;
}

}  // namespace

Option& Options::add(const std::string& name, bool& field, const std::string& help) {
  Option& option = add_option(name, help);
  option.set = [&field](const std::vector<std::string>& values) { field = bool_of(only_one(values)); };
  option.get = [&field] { return std::string(field ? "true" : "false"); };
  option.default_text = option.get();
  return option;
}

Option& Options::add(const std::string& name, int& field, const std::string& help) {
  return number_option(add_option(name, help), field, "INT");
}
Option& Options::add(const std::string& name, std::int64_t& field, const std::string& help) {
  return number_option(add_option(name, help), field, "INT");
}
Option& Options::add(const std::string& name, std::uint64_t& field, const std::string& help) {
  return number_option(add_option(name, help), field, "INT");
}
Option& Options::add(const std::string& name, float& field, const std::string& help) {
  return number_option(add_option(name, help), field, "FLOAT");
}
Option& Options::add(const std::string& name, double& field, const std::string& help) {
  return number_option(add_option(name, help), field, "FLOAT");
}

Option& Options::add(const std::string& name, std::string& field, const std::string& help) {
  Option& option = add_option(name, help);
  option.value = "TEXT";
  option.set = [&field](const std::vector<std::string>& values) { field = only_one(values); };
  option.get = [&field] { return field; };
  option.default_text = option.get();
  return option;
}

Option& Options::add(const std::string& name, std::vector<std::string>& field, const std::string& help) {
  Option& option = add_option(name, help);
  option.value = "TEXT";
  option.repeated = true;
  option.set = [&field](const std::vector<std::string>& values) { field = values; };
  option.get = [&field] {
    std::vector<std::string> quoted;
    for (const std::string& item : field) quoted.push_back(config_quoted(item));
    return joined(quoted, ", ");
  };
  option.default_text = option.get();
  return option;
}

Option& Options::add_text(const std::string& name, const std::string& help, const std::string& placeholder,
                          std::function<void(const std::string&)> set, std::function<std::string()> get) {
  Option& option = add_option(name, help);
  option.value = placeholder;
  option.set = [set = std::move(set)](const std::vector<std::string>& values) { set(only_one(values)); };
  option.get = std::move(get);
  option.default_text = option.get();
  return option;
}

Option& Options::add_choice(const std::string& name, const std::string& help, std::vector<std::string> choices,
                            std::function<void(int)> set, std::function<int()> get) {
  Option& option = add_option(name, help);
  option.value = joined(choices, "|");
  option.choices = std::move(choices);
  // The names are captured, not the option: tools may narrow option.choices afterwards for what they show.
  option.set = [names = option.choices, set](const std::vector<std::string>& values) {
    set(choice_of(only_one(values), names));
  };
  option.get = [names = option.choices, get] { return names.at(static_cast<std::size_t>(get())); };
  option.default_text = option.get();
  return option;
}

}  // namespace moe
