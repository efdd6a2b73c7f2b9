// --help: options by group, at most 100 columns wide, examples last.
#include <algorithm>

#include "lib/base/options_parts.h"

namespace moe {
namespace {

constexpr std::size_t kColumns = 100, kIndent = 30;
constexpr const char* kFooter =
    "Every --x that takes no value also has a --no-x. [...] is the default. An option --x-y is also read from the "
    "environment "
    "variable MOE_X_Y and from the line \"x-y = value\" of a --config file.";

// "  -o, --output DIR", "      --[no-]color"
std::string left_side(const Option& option) {
  if (option.positional) return "  " + spelled(option) + (option.repeated ? "..." : "");
  const std::string letter = option.letter ? std::string("-") + option.letter + ", " : "    ";
  const bool on = is_flag(option) && option.default_text == "true";
  const std::string name = on ? "--[no-]" + option.name : spelled(option);
  return "  " + letter + name + (option.value.empty() ? "" : " " + placeholder(option)) + (option.repeated ? " ..." : "");
}

std::string right_side(const Option& option) {
  std::string text = option.help;
  if (lists_choices(option)) text += ": " + joined(option.choices, ", ");
  if (option.needed) return text + " (needed)";
  const bool says_nothing = option.default_text.empty() || (is_flag(option) && option.default_text == "false");
  return says_nothing ? text : text + " [" + option.default_text + "]";
}

std::string entry(const std::string& left, const std::string& right) {
  std::string text = left;
  bool first = left.size() + 2 <= kIndent;
  if (!first) text += "\n";
  for (const std::string& line : wrapped(right, kColumns - kIndent)) {
    text += std::string(first ? kIndent - left.size() : kIndent, ' ') + line + "\n";
    first = false;
  }
  return text;
}

}  // namespace

std::vector<std::string> groups_of(const Options& options) {
  std::vector<std::string> groups;
  for (const auto& option : options.all())
    if (!option->hidden && std::find(groups.begin(), groups.end(), option->group) == groups.end())
      groups.push_back(option->group);
  return groups;
}

std::string synopsis_of(const Options& options) {
  std::string text = "[options]";
  for (const auto& option : options.all()) {
    if (option->hidden) continue;
    if (!option->positional && option->needed) text += " " + spelled(*option) + " " + option->value;
    if (!option->positional) continue;
    const std::string words = spelled(*option) + (option->repeated ? "..." : "");
    text += option->needed ? " " + words : " [" + words + "]";
  }
  return text;
}

std::string Options::help() const {
  const std::vector<std::string> usage = wrapped("Usage: " + tool_ + " " + synopsis_of(*this), kColumns - 7);
  std::string text = joined(wrapped(tool_ + ": " + summary_, kColumns), "\n") + "\n\n" + joined(usage, "\n       ") + "\n";
  for (const std::string& title : groups_of(*this)) {
    text += "\n" + title + ":\n";
    for (const auto& option : options_)
      if (!option->hidden && option->group == title) text += entry(left_side(*option), right_side(*option));
  }
  text += "\nHelp:\n" + entry("  -h, --help", "this text") + entry("      --version", "version, commit and libraries");
  text += "\n" + joined(wrapped(kFooter, kColumns), "\n") + "\n";
  if (!examples_.empty()) text += "\nExamples:\n";
  for (const std::string& example : examples_) text += "  " + example + "\n";
  return text;
}

}  // namespace moe
