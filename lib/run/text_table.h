// Tables of text for a terminal of 100 columns: aligned columns, numbers to the right. Not here: what is in them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace moe {

inline constexpr std::size_t kTerminalColumns = 100;

class TextTable {
 public:
  // A heading that begins with '>' is that of a column aligned to the right.
  explicit TextTable(std::vector<std::string> headings);
  void add(std::vector<std::string> cells);
  bool empty() const { return rows_.size() == 1; }
  // Two spaces before each line and between columns. Where the lines are too long, the longest cells of the first column
  // lose their middle.
  std::string text() const;

 private:
  std::vector<std::string> headings_;
  std::vector<std::vector<std::string>> rows_;  // the headings first
};

std::string thousands(std::int64_t n);                        // 1,234,567
std::string short_float(double x);                            // 3 digits: 0.00123, 4.5e-09, 0
std::string ranges_text(const std::vector<std::int64_t>& n);  // of ascending numbers: "0-3,7"
// "name   value", the value broken at spaces and indented to its column where it is too long for the line.
std::string labelled(const std::string& label, const std::string& value);

}  // namespace moe
