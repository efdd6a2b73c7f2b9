#include "lib/run/place_show_heat.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lib/run/place_show_figures.h"

namespace moe {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();
constexpr std::size_t kHead = 9, kTail = 15;  // of a line: the layers before, the maximum and its place behind
constexpr std::size_t kRoom = kHeatColumns - kHead - kTail;
constexpr std::size_t kFigure = 5;  // width of a cell that shows a figure: " 1.25"

// Neighbours [first, last) that are one cell or one line.
struct Fold {
  std::size_t first, last;
};

// Columns cut at the ends of nodes, where nodes are given, into folds of at most `most`.
std::vector<Fold> folds_of(std::size_t count, const std::vector<int>& node, std::size_t most) {
  std::vector<Fold> folds;
  for (std::size_t c = 0; c < count; ++c) {
    const bool same_node = !folds.empty() && (node.empty() || node[c] == node[folds.back().first]);
    if (same_node && c - folds.back().first < most)
      ++folds.back().last;
    else
      folds.push_back({c, c + 1});
  }
  return folds;
}

// How a map is laid out: which columns a cell is of, how wide it is, whether a space stands between nodes.
struct Layout {
  std::vector<Fold> cells, lines;
  std::size_t fold = 1, width = 1;
  bool is_spaced = false;

  bool space_before(const HeatMap& map, std::size_t i) const {
    return is_spaced && i > 0 && map.column2node[cells[i].first] != map.column2node[cells[i - 1].first];
  }
};

Layout layout_of(const HeatMap& map) {
  Layout out;
  const std::size_t count = map.value_LC.empty() ? 0 : map.value_LC[0].size();
  out.lines = folds_of(map.value_LC.size(), {}, (map.value_LC.size() + kHeatLines - 1) / kHeatLines);
  const std::size_t spaces = map.column2node.empty() ? 0 : static_cast<std::size_t>(map.column2node.back());
  out.is_spaced = spaces > 0 && spaces < kRoom / 3;
  const std::size_t room = kRoom - (out.is_spaced ? spaces : 0);
  do {
    out.cells = folds_of(count, out.is_spaced ? map.column2node : std::vector<int>{}, out.fold);
  } while (out.cells.size() > room && ++out.fold);
  if (out.cells.size() * kFigure <= room) out.width = kFigure;
  return out;
}

// The largest value of a fold: a hot rank must not vanish among its neighbours.
struct Peak {
  double value = kNone;
  std::size_t column = 0;
};
Peak peak_of(const HeatMap& map, Fold lines, Fold cells) {
  Peak peak;
  for (std::size_t l = lines.first; l < lines.last; ++l)
    for (std::size_t c = cells.first; c < cells.last; ++c)
      if (const double v = map.value_LC[l][c]; v > peak.value || (std::isnan(peak.value) && !std::isnan(v))) peak = {v, c};
  return peak;
}

double largest(const HeatMap& map) {
  return map.value_LC.empty() ? kNone : peak_of(map, {0, map.value_LC.size()}, {0, map.value_LC[0].size()}).value;
}

// What a digit more means: the smallest round step with which ten of them reach the largest value.
double digit_step(double most) {
  for (double power = 0.01; power < 1e6; power *= 10)
    for (const double step : {power, 2 * power, 5 * power})
      if (!(most - 1 >= 10 * step)) return step;
  return 1e6;
}

char digit_of(double value, double step) {
  if (std::isnan(value)) return '-';
  if (value <= 0) return '_';
  if (value < 0.5) return ',';
  // A value that is the mean but for rounding is no digit.
  return value <= 1 + 1e-9 ? '.' : static_cast<char>('0' + std::min(9, static_cast<int>((value - 1) / step)));
}

std::string painted(const std::string& text, double value, const HeatScale& scale) {
  constexpr std::array<int, 13> kColors{25, 32, 74, 117, 153, 189, 255, 224, 217, 210, 203, 160, 124};
  if (std::isnan(value)) return text;
  const int level = value <= 0 ? -1 : static_cast<int>(std::lround((scale.position(value) + 1) * 6));
  const bool dark = level < 2 || level > 10;
  return "\x1b[48;5;" + std::to_string(level < 0 ? 16 : kColors[static_cast<std::size_t>(level)]) + ";38;5;" +
         (dark ? "231m" : "16m") + text + "\x1b[0m";
}

std::string padded(const std::string& text, std::size_t width) {
  return std::string(width - std::min(width, text.size()), ' ') + text;
}

std::string range_text(const HeatMap& map, Fold lines) {
  const std::string first = std::to_string(map.layers[lines.first]);
  return lines.last == lines.first + 1 ? first : first + "-" + std::to_string(map.layers[lines.last - 1]);
}

std::string line_text(const HeatMap& map, const Layout& layout, Fold lines, double step, const HeatScale* color) {
  std::string line = padded(range_text(map, lines), kHead - 2) + "  ";
  for (std::size_t i = 0; i < layout.cells.size(); ++i) {
    const double value = peak_of(map, lines, layout.cells[i]).value;
    const std::string cell =
        layout.width == 1 ? std::string(1, digit_of(value, step)) : padded(figure_text(value), layout.width);
    line += (layout.space_before(map, i) ? " " : "") + (color ? painted(cell, value, *color) : cell);
  }
  const Peak peak = peak_of(map, lines, {0, map.value_LC[lines.first].size()});
  return line + "  " + padded(figure_text(peak.value), 6) +
         (std::isnan(peak.value) ? "" : "  " + std::to_string(peak.column)) + "\n";
}

// The first column of every node, or of every tenth cell, over the cells.
std::string head_text(const HeatMap& map, const Layout& layout) {
  std::string line = padded("layer", kHead - 2) + "  ";
  std::size_t at = kHead;
  for (std::size_t i = 0; i < layout.cells.size(); ++i, at += layout.width) {
    const bool new_node = layout.space_before(map, i);
    at += new_node;
    const std::string name = padded(std::to_string(layout.cells[i].first), layout.width);
    const bool wanted = layout.width > 1 || (layout.is_spaced ? i == 0 || new_node : i % 10 == 0);
    if (wanted && line.size() <= at && (line.size() < at || line.back() == ' ' || layout.width > 1))
      line += std::string(at - line.size(), ' ') + name;
  }
  line += std::string(at - std::min(at, line.size()), ' ');
  return line + "  " + padded("max", 6) + "  " + map.column + "\n";
}

std::string fold_text(const HeatMap& map, const Layout& layout) {
  std::string text;
  if (layout.fold > 1) text = "the largest of up to " + std::to_string(layout.fold) + " neighbouring " + map.column + "s";
  if (layout.lines.size() < map.layers.size())
    text += (text.empty() ? "the largest of " : " and ") + std::to_string(layout.lines[0].last) + " layers";
  return text.empty() ? "" : "; a cell is " + text;
}

std::string legend_text(const Layout& layout, double step, const HeatScale* color) {
  std::string text;
  if (layout.width == 1)
    text = "  _ none  , below half the mean  . up to the mean  0-9 above it, a digit more each " +
           figure_text(100 * step, 0) + " %\n";
  if (color) text += "  blue below the mean, red above it, full from " + figure_text(color->most) + " on, black none\n";
  return text;
}

}  // namespace

double HeatScale::position(double value) const { return std::clamp(std::log(value) / std::log(most), -1.0, 1.0); }

HeatScale heat_scale(const std::vector<const HeatMap*>& maps) {
  double most = kNone;
  for (const HeatMap* map : maps) most = std::fmax(most, largest(*map));
  for (const double round : {1.1, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0})
    if (!(most > round)) return {round};
  return {8};
}

std::string heat_text(const HeatMap& map, bool color) {
  if (map.value_LC.empty()) return "";
  const Layout layout = layout_of(map);
  const double step = digit_step(largest(map));
  const HeatScale scale = heat_scale({&map});
  const HeatScale* colors = color ? &scale : nullptr;
  std::string text = map.title + ", layer x " + map.column + fold_text(map, layout) + "\n" +
                     legend_text(layout, step, colors) + head_text(map, layout);
  for (const Fold lines : layout.lines) text += line_text(map, layout, lines, step, colors);
  return text;
}

}  // namespace moe
