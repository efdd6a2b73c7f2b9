#include "lib/run/place_show_picture.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lib/run/place_show_figures.h"
#include "lib/run/svg.h"

namespace moe {
namespace {

constexpr double kWidth = 1280, kMargin = 32, kGap = 40;
constexpr double kLabels = 42, kBars = 112;  // left and right of a map: layers, and the bars of their maxima
constexpr double kMapTop = 214, kMapHeight = 580;
constexpr const char* kInk = "fill=\"#1f2328\"";
constexpr const char* kSoftInk = "fill=\"#656d76\"";
constexpr const char* kFrame = "fill=\"none\" stroke=\"#8c959f\" stroke-width=\"1\"";
constexpr const char* kNone = "#24292f";     // nothing there: no rows
constexpr const char* kUnknown = "#d8dee4";  // not known

struct Box {
  double x, y, w, h;
  double right() const { return x + w; }
  double bottom() const { return y + h; }
};

// One map in its place.
struct Panel {
  const HeatMap& map;
  HeatScale scale;
  double bar_most;  // that the bars' axis reaches to
  Box box;
  double rows() const { return static_cast<double>(map.value_LC.size()); }
  double columns() const { return static_cast<double>(map.value_LC[0].size()); }
  double cell_w() const { return box.w / columns(); }
  double cell_h() const { return box.h / rows(); }
  double x(double column) const { return box.x + cell_w() * column; }
  double y(double row) const { return box.y + cell_h() * row; }
};

std::string quoted(const char* name, const std::string& value) { return std::string(name) + "=\"" + value + "\" "; }

std::string color_of(double value, const HeatScale& scale) {
  if (std::isnan(value)) return kUnknown;
  return value <= 0 ? kNone : diverging_color(scale.position(value));
}

bool is_dark(double value, const HeatScale& scale) {
  return !std::isnan(value) && (value <= 0 || std::fabs(scale.position(value)) > 0.72);
}

// A rectangle per cell, in units of cells, with its title; a colour is said once for neighbours that share it.
void draw_cells(SvgDocument& svg, const Panel& p) {
  svg.raw("<g class=\"cells\" shape-rendering=\"crispEdges\" transform=\"translate(" + svg_number(p.box.x) + " " +
          svg_number(p.box.y) + ") scale(" + svg_number(p.cell_w(), 6) + " " + svg_number(p.cell_h(), 6) + ")\">\n");
  std::string out;
  for (std::size_t l = 0; l < p.map.value_LC.size(); ++l)
    for (std::size_t c = 0; c < p.map.value_LC[l].size(); ++c) {
      out.append("<rect x=\"").append(std::to_string(c)).append("\" y=\"").append(std::to_string(l));
      out.append("\" width=\"1\" height=\"1\" fill=\"").append(color_of(p.map.value_LC[l][c], p.scale)).append("\"");
      if (p.map.cell_title)
        out.append("><title>").append(svg_text(p.map.cell_title(l, c), 400)).append("</title></rect>\n");
      else
        out.append("/>\n");
    }
  svg.raw(out + "</g>\n");
}

// What a cell says in figures, where it is large enough.
void draw_values(SvgDocument& svg, const Panel& p) {
  if (p.cell_w() < 34 || p.cell_h() < 14) return;
  for (std::size_t l = 0; l < p.map.value_LC.size(); ++l)
    for (std::size_t c = 0; c < p.map.value_LC[l].size(); ++c) {
      const double v = p.map.value_LC[l][c];
      svg.text(
          p.x(static_cast<double>(c) + 0.5), p.y(static_cast<double>(l) + 0.5) + 4, figure_text(v), 11.5, Anchor::kMiddle,
          is_dark(v, p.scale) ? "fill=\"#ffffff\" pointer-events=\"none\"" : "fill=\"#1f2328\" pointer-events=\"none\"");
    }
}

// The hottest column of every layer: a ring around the cell, or a dot where cells are small.
void draw_hottest(SvgDocument& svg, const Panel& p) {
  for (std::size_t l = 0; l < p.map.value_LC.size(); ++l) {
    const std::size_t c = place_of_max(p.map.value_LC[l]);
    if (!(p.map.value_LC[l][c] > 1 + 1e-9)) continue;
    const double x = p.x(static_cast<double>(c)), y = p.y(static_cast<double>(l));
    if (p.cell_w() >= 9 && p.cell_h() >= 7)
      svg.rect(x + 1, y + 1, p.cell_w() - 2, p.cell_h() - 2,
               "fill=\"none\" stroke=\"#000000\" stroke-width=\"1.6\" pointer-events=\"none\"");
    else
      svg.circle(x + p.cell_w() / 2, y + p.cell_h() / 2, std::clamp(p.cell_h() * 0.24, 1.2, 2.4),
                 "fill=\"#000000\" stroke=\"#ffffff\" stroke-width=\"0.5\" pointer-events=\"none\"");
  }
}

// Lines between nodes, and their names where there is room.
void draw_nodes(SvgDocument& svg, const Panel& p) {
  const std::vector<int>& node = p.map.column2node;
  if (node.empty() || node.back() == 0) return;
  const double mean_width = p.box.w / (node.back() + 1);
  const int every = static_cast<int>(std::ceil(30 / mean_width));  // node whose name is written
  for (std::size_t first = 0, end = 0; first < node.size(); first = end) {
    while (end < node.size() && node[end] == node[first]) ++end;
    const double left = p.x(static_cast<double>(first)), right = p.x(static_cast<double>(end));
    if (first > 0 && mean_width >= 6) {
      svg.line(left, p.box.y, left, p.box.bottom(), "stroke=\"#ffffff\" stroke-width=\"2.4\"");
      svg.line(left, p.box.y - 5, left, p.box.bottom(), "stroke=\"#57606a\" stroke-width=\"0.8\"");
    }
    if (node[first] % every == 0)
      svg.text((left + right) / 2, p.box.y - 7, (mean_width > 52 ? "node " : "n") + std::to_string(node[first]), 11,
               Anchor::kMiddle, kSoftInk);
  }
}

void draw_axes(SvgDocument& svg, const Panel& p, bool with_layers) {
  for (const double c : nice_ticks(0, p.columns() - 1, std::min(12, static_cast<int>(p.columns())), true))
    svg.text(p.x(c + 0.5), p.box.bottom() + 16, svg_number(c), 11, Anchor::kMiddle, kInk);
  svg.text(p.box.x + p.box.w / 2, p.box.bottom() + 34, p.map.column, 12.5, Anchor::kMiddle, kInk);
  for (const double l : nice_ticks(0, p.rows() - 1, std::min(16, static_cast<int>(p.rows())), true))
    svg.text(p.box.x - 8, p.y(l + 0.5) + 4, std::to_string(p.map.layers[static_cast<std::size_t>(l)]), 11, Anchor::kEnd,
             kInk);
  if (with_layers)
    svg.text(0, 0, "layer", 12.5, Anchor::kMiddle,
             std::string(kInk) + " transform=\"translate(" + svg_number(p.box.x - 36) + " " +
                 svg_number(p.box.y + p.box.h / 2) + ") rotate(-90)\"");
}

// The maximum of every layer, from the mean on, in the colour that it has in the map; a tick where the bound is.
void draw_bars(SvgDocument& svg, const Panel& p) {
  const Box box{p.box.right() + 12, p.box.y, kBars - 22, p.box.h};
  const Scale x{1, p.bar_most, box.x, box.right()};
  std::vector<double> ticks{1};
  for (const double tick : nice_ticks(1, p.bar_most, 3))
    if (x(tick) - box.x > 24) ticks.push_back(tick);
  for (const double tick : ticks) {
    svg.line(x(tick), box.y, x(tick), box.bottom(), "stroke=\"#d8dee4\" stroke-width=\"1\"");
    svg.text(x(tick), box.bottom() + 16, readable_number(tick, 4), 11, Anchor::kMiddle, kInk);
  }
  for (std::size_t l = 0; l < p.map.value_LC.size(); ++l) {
    const double most = p.map.value_LC[l][place_of_max(p.map.value_LC[l])], y = p.y(static_cast<double>(l));
    if (!std::isfinite(most)) continue;
    svg.rect(box.x, y + p.cell_h() * 0.15, std::fmax(x(most) - box.x, 0), p.cell_h() * 0.7,
             quoted("fill", color_of(most, p.scale)) + "stroke=\"#8c959f\" stroke-width=\"0.5\"");
    if (l < p.map.bound_L.size() && std::isfinite(p.map.bound_L[l]))
      svg.line(x(p.map.bound_L[l]), y, x(p.map.bound_L[l]), y + p.cell_h(), "stroke=\"#000000\" stroke-width=\"1.8\"");
  }
  svg.line(box.x, box.y, box.x, box.bottom(), "stroke=\"#57606a\" stroke-width=\"1\"");
  svg.text(box.x + box.w / 2, box.bottom() + 34, "max / mean", 12.5, Anchor::kMiddle, kInk);
}

void draw_panel(SvgDocument& svg, const Panel& p, bool first) {
  svg.raw("<text x=\"" + svg_number(p.box.x) + "\" y=\"" + svg_number(p.box.y - 28) +
          "\" font-size=\"14\" font-weight=\"bold\" fill=\"#1f2328\">" + svg_text(p.map.title, 60) + "</text>\n");
  draw_cells(svg, p);
  draw_nodes(svg, p);
  draw_values(svg, p);
  draw_hottest(svg, p);
  svg.rect(p.box.x, p.box.y, p.box.w, p.box.h, std::string(kFrame) + " pointer-events=\"none\"");
  draw_axes(svg, p, first);
  draw_bars(svg, p);
}

void draw_key_figures(SvgDocument& svg, const std::vector<KeyFigure>& figures) {
  const double step = (kWidth - 2 * kMargin) / 5;
  for (std::size_t i = 0; i < std::min<std::size_t>(figures.size(), 5); ++i) {
    const double x = kMargin + step * static_cast<double>(i);
    svg.line(x, 88, x, 146, "stroke=\"#2166ac\" stroke-width=\"3\"");
    svg.text(x + 12, 99, figures[i].name, 12, Anchor::kStart, kSoftInk);
    svg.text(x + 12, 126, figures[i].value, 24, Anchor::kStart, std::string(kInk) + " font-weight=\"bold\"");
    svg.text(x + 12, 146, figures[i].note, 11.5, Anchor::kStart, kSoftInk);
  }
}

void draw_legend(SvgDocument& svg, const PlacePicture& picture, const HeatScale& scale, double y) {
  constexpr int kSteps = 60;
  const double x = kMargin + kLabels, w = 4.5;
  svg.text(x, y - 8, picture.unit, 12, Anchor::kStart, kInk);
  for (int i = 0; i < kSteps; ++i)
    svg.rect(x + w * i, y, w + 0.3, 14, quoted("fill", diverging_color(2.0 * i / (kSteps - 1) - 1)));
  svg.rect(x, y, w * kSteps, 14, kFrame);
  for (const double at : {-1.0, -0.5, 0.0, 0.5, 1.0})
    svg.text(x + w * kSteps * (at + 1) / 2, y + 29, figure_text(std::pow(scale.most, at)), 11, Anchor::kMiddle, kInk);
  double next = x + w * kSteps + 40;
  const auto entry = [&](const std::string& words, double width) {
    svg.text(next + 22, y + 11, words, 12, Anchor::kStart, kInk);
    next += width;
  };
  svg.rect(next, y, 14, 14, quoted("fill", kNone));
  entry("nothing", 100);
  svg.rect(next, y, 14, 14, quoted("fill", kUnknown));
  entry("not known", 116);
  const HeatMap& map = picture.maps[0];
  const bool rings = map.value_LC[0].size() <= 60 / picture.maps.size();
  if (rings) svg.rect(next + 1, y + 1, 12, 12, "fill=\"none\" stroke=\"#000000\" stroke-width=\"1.6\"");
  if (!rings) svg.circle(next + 7, y + 7, 2.4, "fill=\"#000000\"");
  entry("hottest " + map.column + " of its layer", 200);
  if (map.bound_L.empty()) return;
  svg.line(next + 7, y, next + 7, y + 14, "stroke=\"#000000\" stroke-width=\"1.8\"");
  entry("bound: no placement is better", 0);
}

// The maps beside each other, all of the height of the tallest.
std::vector<Panel> panels_of(const PlacePicture& picture) {
  std::vector<const HeatMap*> shown;
  double most = 1.02;
  std::size_t rows = 1;
  for (const HeatMap& map : picture.maps) {
    shown.push_back(&map);
    rows = std::max(rows, map.value_LC.size());
    for (const auto& row : map.value_LC) most = std::fmax(most, row[place_of_max(row)]);
  }
  const HeatScale scale = heat_scale(shown);
  const auto n = static_cast<double>(shown.size());
  const double all = (kWidth - 2 * kMargin - kGap * (n - 1)) / n, height = kMapHeight;
  const double h = std::clamp(height / static_cast<double>(rows), 3.0, 30.0) * static_cast<double>(rows);
  std::vector<Panel> panels;
  for (std::size_t i = 0; i < shown.size(); ++i)
    panels.push_back({*shown[i],
                      scale,
                      most * 1.02,
                      {kMargin + kLabels + (all + kGap) * static_cast<double>(i), kMapTop, all - kLabels - kBars, h}});
  return panels;
}

}  // namespace

std::string draw_place_svg(const PlacePicture& picture) {
  const std::vector<Panel> panels = panels_of(picture);
  const double bottom = panels[0].box.bottom();
  SvgDocument svg(kWidth, bottom + 124, picture.title);
  svg.raw("<text x=\"" + svg_number(kMargin) + "\" y=\"40\" font-size=\"21\" font-weight=\"bold\" fill=\"#1f2328\">" +
          svg_text(picture.title, 90) + "</text>\n");
  svg.raw("<text x=\"" + svg_number(kMargin) + "\" y=\"64\" font-size=\"13\" fill=\"#656d76\">" +
          svg_text(picture.subtitle, 170) + "</text>\n");
  draw_key_figures(svg, picture.figures);
  for (std::size_t i = 0; i < panels.size(); ++i) draw_panel(svg, panels[i], i == 0);
  draw_legend(svg, picture, panels[0].scale, bottom + 78);
  return std::move(svg).finish();
}

}  // namespace moe
