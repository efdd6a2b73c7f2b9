// Completion for bash: options, choices of enums, files where a file is expected. One script a tool, named like the tool,
// as bash-completion loads it.
#include "lib/base/options_parts.h"

namespace moe {
namespace {

bool mentions(const Option& option, const char* word) { return option.value.find(word) != std::string::npos; }

// What bash offers for the value of an option.
std::string offer(const Option& option) {
  const std::string words = "COMPREPLY=( $(compgen -W '" + joined(option.choices, " ") + "' -- \"$cur\") )";
  if (!option.choices.empty()) return words;
  if (mentions(option, "FILE") || mentions(option, "PATH")) return "COMPREPLY=( $(compgen -f -- \"$cur\") )";
  if (mentions(option, "DIR")) return "COMPREPLY=( $(compgen -d -- \"$cur\") )";
  return "COMPREPLY=()";
}

std::string pattern_of(const Option& option) {
  return spelled(option) + (option.letter ? std::string("|-") + option.letter : "");
}

std::string all_words(const Options& options) {
  std::string words = "-h --help --version";
  for (const auto& option : options.all()) {
    if (option->hidden || option->positional) continue;
    words += " " + spelled(*option);
    if (option->letter) words += std::string(" -") + option->letter;
    if (is_flag(*option)) words += " --no-" + option->name;
  }
  return words;
}

std::string positional_words(const Options& options) {
  std::string words;
  for (const auto& option : options.all())
    if (option->positional && !option->hidden)
      for (const std::string& choice : option->choices) words += (words.empty() ? "" : " ") + choice;
  return words;
}

}  // namespace

std::string Options::bash_completion() const {
  std::string function = "_" + tool_;
  for (char& c : function) c = c == '-' ? '_' : c;
  std::string text = "# bash completion of " + tool_ + "\n" + function + "() {\n  local cur=${COMP_WORDS[COMP_CWORD]}\n" +
                     "  local prev=${COMP_WORDS[COMP_CWORD-1]}\n  local IFS=$' \\t\\n'\n  case $prev in\n";
  for (const auto& option : options_)
    if (!option->hidden && !option->positional && !is_flag(*option))
      text += "    " + pattern_of(*option) + ") " + offer(*option) + "; return ;;\n";
  return text + "  esac\n  if [[ $cur == -* ]]; then\n    COMPREPLY=( $(compgen -W '" + all_words(*this) +
         "' -- \"$cur\") )\n" + "  else\n    COMPREPLY=( $(compgen -W '" + positional_words(*this) +
         "' -f -- \"$cur\") )\n  fi\n}\n" + "complete -o filenames -F " + function + " " + tool_ + "\n";
}

}  // namespace moe
