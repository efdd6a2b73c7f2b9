#include "lib/run/text_table.h"

#include <algorithm>
#include <cstdio>

#include "lib/base/options_parts.h"

namespace moe {
namespace {

std::string shortened(const std::string& cell, std::size_t width) {
  if (cell.size() <= width) return cell;
  const std::size_t head = (width - 2) / 2;
  return cell.substr(0, head) + ".." + cell.substr(cell.size() - (width - 2 - head));
}

}  // namespace

TextTable::TextTable(std::vector<std::string> headings) : headings_(std::move(headings)) {
  rows_.push_back(headings_);
  for (std::string& h : rows_[0])
    if (h.starts_with('>')) h.erase(0, 1);
}

void TextTable::add(std::vector<std::string> cells) {
  cells.resize(headings_.size());
  rows_.push_back(std::move(cells));
}

std::string TextTable::text() const {
  std::vector<std::size_t> width(headings_.size());
  for (const auto& row : rows_)
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::size_t all = 0;
  for (const std::size_t w : width) all += w + 2;
  if (all > kTerminalColumns) width[0] -= std::min(all - kTerminalColumns, width[0] - std::min<std::size_t>(width[0], 12));
  std::string out;
  for (const auto& row : rows_) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string cell = shortened(row[c], width[c]), space(width[c] - cell.size(), ' ');
      line += "  " + (headings_[c].starts_with('>') ? space + cell : cell + space);
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string thousands(std::int64_t n) {
  std::string digits = std::to_string(n);
  for (std::ptrdiff_t at = static_cast<std::ptrdiff_t>(digits.size()) - 3; at > (n < 0 ? 1 : 0); at -= 3)
    digits.insert(static_cast<std::size_t>(at), ",");
  return digits;
}

std::string short_float(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3g", x);
  return text;
}

std::string ranges_text(const std::vector<std::int64_t>& n) {
  std::string text;
  for (std::size_t i = 0, j = 0; i < n.size(); i = j) {
    for (j = i + 1; j < n.size() && n[j] == n[j - 1] + 1;) ++j;
    text += (i == 0 ? "" : ",") + std::to_string(n[i]) + (j > i + 1 ? "-" + std::to_string(n[j - 1]) : "");
  }
  return text;
}

std::string labelled(const std::string& label, const std::string& value) {
  constexpr std::size_t kColumn = 14;
  std::string out, head = "  " + label + std::string(kColumn - std::min(kColumn - 1, label.size()), ' ');
  for (const std::string& line : wrapped(value, kTerminalColumns - head.size())) {
    out += head + line + "\n";
    head.assign(kColumn + 2, ' ');
  }
  return out.empty() ? head.substr(0, head.find_last_not_of(' ') + 1) + "\n" : out;
}

}  // namespace moe
