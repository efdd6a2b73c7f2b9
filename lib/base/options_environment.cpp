// Options from the environment: MOE_<NAME>, with _ for -. A variable that is set but empty counts as not set.
// Not options: MOE_ISA and MOE_FAULT; other MOE_* variables are left alone unless they look like a misspelt option.
#include <unistd.h>

#include <algorithm>

#include "lib/base/options_parts.h"

namespace moe {
namespace {

const std::string kPrefix = "MOE_";

std::string option_name(std::string variable) {
  for (char& c : variable) c = c == '_' ? '-' : static_cast<char>(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
  return variable;
}

std::string variable_name(std::string option) {
  for (char& c : option) c = c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return kPrefix + option;
}

// Two slips of the hand at most, and fewer in a short name, which may well be an option of another tool.
void refuse_misspelt(const Options& options, const std::string& variable, const std::string& name) {
  if (variable == "MOE_ISA" || variable == "MOE_FAULT") return;
  const std::size_t slips = std::min<std::size_t>(2, name.size() / 3);
  for (const auto& option : options.all()) {
    if (option->positional || option->hidden || edit_distance(name, option->name) > slips) continue;
    throw Error(Exit::kUsage,
                "environment variable " + variable + " is no option; did you mean " + variable_name(option->name) + "?",
                "correct or unset it");
  }
}

// Values of a repeated option are separated by commas.
std::vector<std::string> values_of(const Option& option, const std::string& text) {
  if (!option.repeated) return {text};
  std::vector<std::string> values(1);
  for (const char c : text) {
    if (c == ',')
      values.emplace_back();
    else
      values.back() += c;
  }
  return values;
}

}  // namespace

std::vector<Setting> read_environment(const Options& options) {
  std::vector<Setting> settings;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    const std::size_t equals = text.find('=');
    if (text.rfind(kPrefix, 0) != 0 || equals == std::string::npos) continue;
    const std::string variable = text.substr(0, equals), value = text.substr(equals + 1);
    const std::string name = option_name(variable.substr(kPrefix.size()));
    Option* option = find_option(options, name);
    if (!option || option->positional || variable != variable_name(name))
      refuse_misspelt(options, variable, name);
    else if (!value.empty())
      settings.push_back({option, values_of(*option, value), variable});
  }
  return settings;
}

}  // namespace moe
