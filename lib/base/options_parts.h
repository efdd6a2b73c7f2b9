// What the files of Options share. Not for others: they include options.h.
#pragma once

#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/options.h"

namespace moe {

// One value on its way to an option, and where it was found: "--lr", "MOE_LR", "run.conf:3:6: lr".
struct Setting {
  Option* option;
  std::vector<std::string> values;
  std::string where;
};

// Sets the value unless a stronger origin has spoken; puts `where` before what the option complains of.
void assign(Option& option, const std::vector<std::string>& values, Origin origin, const std::string& where);

// nullptr if there is none.
Option* find_option(const Options& options, const std::string& name);
std::vector<std::string> names_of(const Options& options);

inline bool is_flag(const Option& option) { return option.value.empty() && !option.positional; }
// Options about the configuration itself are no part of it.
inline bool is_about_config(const Option& option) { return option.name == "config" || option.name == "print-config"; }
// "--lr", "-o" for a name of one letter, "IN" for a positional one.
std::string spelled(const Option& option);
// True if --help lists the choices in words, because they are too long for a placeholder.
bool lists_choices(const Option& option);
// "FILE", "cpu|cuda|auto", or "NAME" if the choices are listed.
std::string placeholder(const Option& option);
// "did you mean --lr?", or "" if no name is near.
std::string did_you_mean(const std::string& name, const std::vector<std::string>& names, const std::string& prefix = "");
// Number of insertions, deletions, replacements and swaps of neighbours.
std::size_t edit_distance(const std::string& a, const std::string& b);
// If a dash such as U+2013 starts at text[at]: the number of its bytes; else 0.
std::size_t foreign_dash_bytes(const std::string& text, std::size_t at);

std::vector<Setting> read_config_file(const std::string& path, const Options& options);
std::vector<Setting> read_environment(const Options& options);

// A value as the configuration file spells it: in quotes where it would be read differently without.
std::string config_quoted(const std::string& value);
std::string joined(const std::vector<std::string>& items, const std::string& separator);
// Headings, in the order in which they first appear.
std::vector<std::string> groups_of(const Options& options);
// "[options] COMMAND [INPUTS...]"
std::string synopsis_of(const Options& options);
// Text in lines of at most `width` columns, broken at spaces; a longer word stays whole.
std::vector<std::string> wrapped(const std::string& text, std::size_t width);

}  // namespace moe
