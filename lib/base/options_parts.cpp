// Names, and how near they are to each other; what the files of Options share.
#include "lib/base/options_parts.h"

#include <algorithm>
#include <array>
#include <sstream>

namespace moe {

void assign(Option& option, const std::vector<std::string>& values, Origin origin, const std::string& where) {
  if (origin < option.origin) return;
  try {
    option.set(values);
  } catch (const Error& error) {
    throw Error(error.code(), where + ": " + error.what(), error.hint());
  }
  option.origin = origin;
}

Option* find_option(const Options& options, const std::string& name) {
  for (const auto& option : options.all())
    if (option->name == name) return option.get();
  return nullptr;
}

std::vector<std::string> names_of(const Options& options) {
  std::vector<std::string> names;
  for (const auto& option : options.all())
    if (!option->hidden) names.push_back(option->name);
  return names;
}

std::string spelled(const Option& option) {
  if (!option.positional) return (option.name.size() == 1 ? "-" : "--") + option.name;
  std::string upper = option.name;
  for (char& c : upper) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return upper;
}

bool lists_choices(const Option& option) {
  constexpr std::size_t kLong = 40;
  return !option.choices.empty() && (option.positional || option.value.size() > kLong);
}

std::string placeholder(const Option& option) { return lists_choices(option) ? "NAME" : option.value; }

std::size_t edit_distance(const std::string& a, const std::string& b) {
  const std::size_t columns = b.size() + 1;
  std::vector<std::size_t> d((a.size() + 1) * columns);
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      std::size_t& here = d[i * columns + j];
      if (i == 0 || j == 0) {
        here = i + j;
        continue;
      }
      const std::size_t replaced = (&here)[-static_cast<std::ptrdiff_t>(columns) - 1] + (a[i - 1] != b[j - 1]);
      here = std::min({d[(i - 1) * columns + j] + 1, d[i * columns + j - 1] + 1, replaced});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        here = std::min(here, d[(i - 2) * columns + j - 2] + 1);
    }
  }
  return d.back();
}

// Near is: a third of the letters wrong, or the start of a longer name.
std::string nearest_name(const std::string& name, const std::vector<std::string>& names) {
  std::string best;
  std::size_t least = std::max<std::size_t>(1, (name.size() + 1) / 3) + 1;
  for (const std::string& candidate : names) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance >= least || distance >= std::max(name.size(), candidate.size())) continue;
    least = distance;
    best = candidate;
  }
  if (!best.empty() || name.size() < 3) return best;
  for (const std::string& candidate : names)
    if (candidate.rfind(name, 0) == 0) return candidate;
  return best;
}

std::string did_you_mean(const std::string& name, const std::vector<std::string>& names, const std::string& prefix) {
  const std::string near = nearest_name(name, names);
  return near.empty() ? "" : "did you mean " + prefix + near + "?";
}

// U+2010..U+2015 (hyphens and dashes), U+2212 (minus), U+FE63 and U+FF0D (small and wide hyphen), in UTF-8.
std::size_t foreign_dash_bytes(const std::string& text, std::size_t at) {
  static constexpr std::array<const char*, 9> kDashes{"\u2010", "\u2011", "\u2012", "\u2013", "\u2014",
                                                      "\u2015", "\u2212", "\uFE63", "\uFF0D"};
  for (const std::string dash : kDashes)
    if (text.compare(at, dash.size(), dash) == 0) return dash.size();
  return 0;
}

std::string joined(const std::vector<std::string>& items, const std::string& separator) {
  std::string text;
  for (std::size_t i = 0; i < items.size(); ++i) text += (i == 0 ? "" : separator) + items[i];
  return text;
}

std::vector<std::string> wrapped(const std::string& text, std::size_t width) {
  std::vector<std::string> lines(1);
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    if (!lines.back().empty() && lines.back().size() + 1 + word.size() > width) lines.emplace_back();
    lines.back() += (lines.back().empty() ? "" : " ") + word;
  }
  return lines;
}

}  // namespace moe
