// What moe-place show prints: the summary, the tables, the heat map of a terminal. Not here: the cells of the tables
// (place_show_tables.cpp), the map's form (place_show_heat.cpp).
#include <algorithm>

#include "lib/base/options_parts.h"
#include "lib/run/inspect_parts.h"
#include "lib/run/place_show.h"
#include "lib/run/text_table.h"

namespace moe {
namespace {

constexpr std::size_t kMostRows = 12;  // of a list, unless --verbose

// A long last column goes on in the lines below.
std::string table_text(const ShowTable& t, std::size_t most_rows) {
  if (t.rows.empty()) return "";
  const std::size_t shown = std::min(t.rows.size(), most_rows), last = t.headings.size() - 1;
  std::size_t left = 2;
  for (std::size_t c = 0; c < last; ++c) {
    std::size_t width = t.headings[c].size();
    for (std::size_t r = 0; r < shown; ++r) width = std::max(width, t.rows[r][c].size());
    left += width + 2;
  }
  TextTable table(t.headings);
  for (std::size_t r = 0; r < shown; ++r) {
    std::vector<std::string> row = t.rows[r];
    std::vector<std::string> lines = wrapped(row[last], kTerminalColumns - std::min(left, kTerminalColumns - 20));
    if (lines.empty()) lines.emplace_back();
    for (const std::string& line : lines) {
      row[last] = line;
      table.add(row);
      row.assign(row.size(), "");
    }
  }
  const auto rest = static_cast<std::int64_t>(t.rows.size() - shown);
  return "\n" + t.title + "\n" + table.text() + (rest > 0 ? "  .. and " + thousands(rest) + " more (-v shows all)\n" : "");
}

std::string head_text(const ShowSubject& s, const ShowFigures& f) {
  std::string text = s.path + ": " + (s.kind == "plan" ? "a plan" : "loads of experts") + "\n";
  for (const auto& [name, value] : summary_lines(s, f)) text += labelled(name, printable(value));
  return text + (s.kind == "plan" ? provenance_text(s.plan.provenance) : "");
}

}  // namespace

std::string show_text(const ShowSubject& s, const ShowFigures& f, bool color, bool verbose) {
  std::string text = head_text(s, f);
  const auto add = [&](const ShowTable& t) { text += table_text(t, t.is_list && !verbose ? kMostRows : t.rows.size()); };
  add(expert_table(f));
  add(placed_table(s, f));
  if (!f.placed.empty())
    text += "\n" + heat_text(rank_map(s, f, 0), color);
  else
    text += "\n" + heat_text(expert_map(f), color);
  add(rank_table(s, f));
  add(copies_table(f));
  add(pins_table(s, f));
  return text;
}

std::string show_layer_text(const ShowSubject& s, const ShowFigures& f, std::size_t l) {
  std::string text = head_text(s, f);
  for (ShowTable t : {expert_table(f), placed_table(s, f)}) {
    if (!t.rows.empty()) t.rows = {t.rows[l]};
    text += table_text(t, 1);
  }
  const ShowTable t = layer_table(s, f, l);
  return text + table_text(t, t.rows.size());
}

}  // namespace moe
