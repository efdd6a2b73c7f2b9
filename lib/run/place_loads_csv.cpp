#include "lib/run/place_loads_csv.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <sstream>

#include "lib/base/error.h"

namespace moe {
namespace {

constexpr std::int64_t kMostLayers = 1 << 20;

struct Line {
  std::int64_t number = 0;  // in the file, from 1
  std::vector<std::string> fields;
};

std::string trimmed(const std::string& text) {
  const std::size_t begin = text.find_first_not_of(" \t\r");
  return begin == std::string::npos ? "" : text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

std::vector<Line> split_lines(const std::string& text) {
  std::vector<Line> lines;
  std::istringstream in(text);
  std::int64_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    line = trimmed(line);
    if (line.empty() || line[0] == '#') continue;
    lines.push_back({number, {}});
    for (std::size_t begin = 0; begin <= line.size();) {
      const std::size_t end = std::min(line.find(',', begin), line.size());
      lines.back().fields.push_back(trimmed(line.substr(begin, end - begin)));
      begin = end + 1;
    }
  }
  return lines;
}

std::optional<double> number_of(const std::string& field) {
  double x = 0;
  const auto [end, fault] = std::from_chars(field.data(), field.data() + field.size(), x);
  if (fault != std::errc() || end != field.data() + field.size()) return std::nullopt;
  return x;
}

[[noreturn]] void refuse(const std::string& path, const Line& line, std::size_t column, const std::string& what) {
  throw Error(Exit::kBadInput, path + ": line " + std::to_string(line.number) + ", column " + std::to_string(column + 1) +
                                   ": expected " + what + ", found '" + line.fields[column].substr(0, 40) + "'");
}

int layer_of(const std::string& path, const Line& line, const std::vector<int>& before) {
  const std::optional<double> x = number_of(line.fields[0]);
  const double least = before.empty() ? 0 : before.back() + 1;
  if (!x || *x != std::floor(*x) || !(*x >= least) || *x > kMostLayers)
    refuse(path, line, 0, "a layer from " + std::to_string(static_cast<int>(least)) + " (they ascend)");
  return static_cast<int>(*x);
}

std::vector<double> loads_of(const std::string& path, const Line& line, std::size_t first_column) {
  std::vector<double> load_E;
  for (std::size_t c = first_column; c < line.fields.size(); ++c) {
    const std::optional<double> x = number_of(line.fields[c]);
    if (!x || !(*x >= 0) || std::isinf(*x)) refuse(path, line, c, "a number from 0");
    load_E.push_back(*x);
  }
  return load_E;
}

bool is_header(const Line& line) {
  return std::none_of(line.fields.begin(), line.fields.end(), [](const std::string& f) { return number_of(f).has_value(); });
}

}  // namespace

Loads parse_loads_csv(const std::string& text, const std::string& path) {
  std::vector<Line> lines = split_lines(text);
  const bool header = !lines.empty() && is_header(lines[0]);
  const std::size_t first_column = header && lines[0].fields[0] == "layer" ? 1 : 0;
  if (lines.size() < (header ? 2u : 1u)) throw Error(Exit::kBadInput, path + ": expected a line per layer, found none");
  const std::size_t columns = lines[0].fields.size();
  if (columns <= first_column) throw Error(Exit::kBadInput, path + ": expected a column per expert, found none");
  Loads loads;
  loads.num_experts = static_cast<int>(columns - first_column);
  for (std::size_t i = header; i < lines.size(); ++i) {
    const Line& line = lines[i];
    if (line.fields.size() != columns)
      throw Error(Exit::kBadInput, path + ": line " + std::to_string(line.number) + ": expected " + std::to_string(columns) +
                                       " columns as in line " + std::to_string(lines[0].number) + ", found " +
                                       std::to_string(line.fields.size()));
    loads.layers.push_back(first_column > 0 ? layer_of(path, line, loads.layers) : static_cast<int>(loads.layers.size()));
    loads.of_layer.emplace_back().load_E = loads_of(path, line, first_column);
  }
  return loads;
}

}  // namespace moe
