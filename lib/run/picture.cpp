#include "lib/run/picture.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "lib/run/svg.h"

namespace moe {
namespace {

constexpr double kWidth = 1160, kHeight = 600;
constexpr const char* kTrainColor = "#4c78a8";
constexpr const char* kEvalColor = "#d9480f";
constexpr const char* kEntropyColor = "#2b8a3e";
constexpr const char* kGrid = "stroke=\"#e4e4e4\" stroke-width=\"1\"";
constexpr const char* kFrame = "fill=\"none\" stroke=\"#888888\" stroke-width=\"1\"";
constexpr const char* kInk = "fill=\"#222222\"";
constexpr const char* kSoftInk = "fill=\"#666666\"";

struct Box {
  double x, y, w, h;
  double right() const { return x + w; }
  double bottom() const { return y + h; }
};
constexpr Box kLossBox{72, 110, 560, 316};
constexpr Box kLrBox{72, 446, 560, 40};
constexpr Box kVioBox{72, 506, 560, 40};
constexpr Box kLoadBox{720, 110, 410, 376};

using Values = double CurvePoint::*;

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -low;
  void take(double value) {
    if (!std::isfinite(value)) return;
    low = std::fmin(low, value);
    high = std::fmax(high, value);
  }
  bool empty() const { return !(low <= high); }
};

Range range_of(const RunPicture& run, Values values) {
  Range range;
  for (const CurvePoint& p : run.points) range.take(p.*values);
  return range;
}

Scale step_scale(const RunPicture& run, const Box& box) {
  if (run.points.empty()) return {0, 1, box.x, box.right()};
  return {static_cast<double>(run.points.front().step), static_cast<double>(run.points.back().step), box.x, box.right()};
}

// The finite values of a series, averaged over every pixel column so that a long run stays a small file.
struct Column {
  double x = 0, mean = 0, low = 0, high = 0;
};
std::vector<Column> columns_of(const RunPicture& run, Values values, const Scale& x) {
  std::vector<Column> columns;
  double sum_x = 0, sum = 0, count = 0, pixel = -1;
  for (const CurvePoint& p : run.points) {
    const double v = p.*values, at = x(static_cast<double>(p.step));
    if (!std::isfinite(v)) continue;
    if (std::floor(at) != pixel) {
      columns.push_back({.low = v, .high = v});
      sum_x = sum = count = 0;
      pixel = std::floor(at);
    }
    Column& c = columns.back();
    c = {(sum_x += at) / (count + 1), (sum += v) / (count + 1), std::fmin(c.low, v), std::fmax(c.high, v)};
    ++count;
  }
  return columns;
}

using Points = std::vector<std::pair<double, double>>;

// A line through the means; a single point is a dot.
void draw_curve(SvgDocument& svg, const std::vector<Column>& columns, const Scale& y, const std::string& color, double width,
                bool markers) {
  Points line;
  for (const Column& c : columns) line.emplace_back(c.x, y(c.mean));
  svg.polyline(line, "stroke=\"" + color + "\" stroke-linejoin=\"round\" stroke-width=\"" + svg_number(width) + "\"");
  const std::size_t stride = line.size() / 40 + 1;  // dots that touch each other are noise
  if (markers || line.size() == 1)
    for (std::size_t i = (line.size() - 1) % stride; i < line.size(); i += stride)
      svg.circle(line[i].first, line[i].second, width + 1, "fill=\"" + color + "\"");
}

// What averaging hides: the band between the smallest and largest value of every column.
void draw_band(SvgDocument& svg, const std::vector<Column>& columns, const Scale& y, const std::string& color) {
  Points outline;
  for (const Column& c : columns) outline.emplace_back(c.x, y(c.high));
  for (auto c = columns.rbegin(); c != columns.rend(); ++c) outline.emplace_back(c->x, y(c->low));
  svg.polygon(outline, "fill=\"" + color + "\" fill-opacity=\"0.22\" stroke=\"none\"");
}

void draw_y_axis(SvgDocument& svg, const Box& box, const Scale& y, const std::vector<double>& ticks) {
  for (const double tick : ticks) {
    svg.line(box.x, y(tick), box.right(), y(tick), kGrid);
    svg.text(box.x - 8, y(tick) + 4, readable_number(tick), 12, Anchor::kEnd, kInk);
  }
}

void draw_x_axis(SvgDocument& svg, const Box& top, const Box& bottom, const Scale& x) {
  for (const double tick : nice_ticks(x.low, x.high, 6, true)) {
    for (const Box& box : {top, kLrBox, bottom}) svg.line(x(tick), box.y, x(tick), box.bottom(), kGrid);
    svg.text(x(tick), bottom.bottom() + 18, readable_number(tick, 9), 12, Anchor::kMiddle, kInk);
  }
  svg.text(bottom.x + bottom.w / 2, bottom.bottom() + 38, "step", 13, Anchor::kMiddle, kInk);
}

// Name and newest value of each curve, in a row above the panel, so that no curve can run through it.
void draw_loss_legend(SvgDocument& svg, const RunPicture& run) {
  double x = kLossBox.x;
  const auto entry = [&](const std::string& words, const char* color, const char* style, double width) {
    svg.line(x, kLossBox.y - 16, x + 26, kLossBox.y - 16, std::string("stroke=\"") + color + "\" " + style);
    svg.text(x + 32, kLossBox.y - 12, words, 12, Anchor::kStart, kInk);
    x += width;
  };
  const auto last = [&](Values values) {
    const auto p =
        std::find_if(run.points.rbegin(), run.points.rend(), [&](const CurvePoint& q) { return std::isfinite(q.*values); });
    return p == run.points.rend() ? std::string() : std::string(" ").append(readable_number((*p).*values));
  };
  entry("training" + last(&CurvePoint::train_loss), kTrainColor, "stroke-width=\"1.5\"", 150);
  if (!range_of(run, &CurvePoint::eval_loss).empty())
    entry("held-out text" + last(&CurvePoint::eval_loss), kEvalColor, "stroke-width=\"3\"", 180);
  if (run.unigram_entropy > 0)
    entry("unigram entropy " + readable_number(run.unigram_entropy), kEntropyColor,
          "stroke-width=\"2\" stroke-dasharray=\"6 4\"", 0);
}

void draw_loss(SvgDocument& svg, const RunPicture& run, const Scale& x) {
  Range range = range_of(run, &CurvePoint::train_loss);
  const Range eval = range_of(run, &CurvePoint::eval_loss);
  range.take(eval.low);
  range.take(eval.high);
  if (run.unigram_entropy > 0) range.take(run.unigram_entropy);
  if (range.empty()) range = {0, 1};
  const double margin =
      range.high > range.low ? 0.05 * (range.high - range.low) : 0.05 * std::fmax(std::fabs(range.high), 1);
  const Scale y{range.low - margin, range.high + margin, kLossBox.bottom(), kLossBox.y};
  draw_y_axis(svg, kLossBox, y, nice_ticks(y.low, y.high, 7));
  const auto train = columns_of(run, &CurvePoint::train_loss, x);
  draw_band(svg, train, y, kTrainColor);
  draw_curve(svg, train, y, kTrainColor, 1.2, false);
  if (std::isfinite(run.unigram_entropy) && run.unigram_entropy > 0)
    svg.line(kLossBox.x, y(run.unigram_entropy), kLossBox.right(), y(run.unigram_entropy),
             std::string("stroke=\"") + kEntropyColor + "\" stroke-width=\"2\" stroke-dasharray=\"6 4\"");
  draw_curve(svg, columns_of(run, &CurvePoint::eval_loss, x), y, kEvalColor, 2.6, true);
  svg.rect(kLossBox.x, kLossBox.y, kLossBox.w, kLossBox.h, kFrame);
  svg.text(0, 0, "loss (nats per token)", 13, Anchor::kMiddle,
           "fill=\"#222222\" transform=\"translate(22 " + svg_number(kLossBox.y + kLossBox.h / 2) + ") rotate(-90)\"");
  if (train.empty())
    svg.text(kLossBox.x + kLossBox.w / 2, kLossBox.y + kLossBox.h / 2, "no steps yet", 14, Anchor::kMiddle, kSoftInk);
}

// A low panel from 0 to the largest value; its name stands above its right end.
void draw_strip(SvgDocument& svg, const RunPicture& run, const Scale& x, const Box& box, Values values,
                const std::string& name) {
  const Range range = range_of(run, values);
  const double top = range.empty() || range.high <= 0 ? 1 : range.high;
  const Scale y{0, top * 1.08, box.bottom(), box.y};
  draw_y_axis(svg, box, y, range.empty() ? std::vector<double>{0} : std::vector<double>{0, top});
  const auto columns = columns_of(run, values, x);
  draw_band(svg, columns, y, "#555555");
  draw_curve(svg, columns, y, "#555555", 1.2, false);
  svg.rect(box.x, box.y, box.w, box.h, kFrame);
  svg.text(box.right() - 4, box.y - 5, name, 11, Anchor::kEnd, kSoftInk);
}

// --- the heat map: blue = idle, white = balanced, red = busy, on a logarithmic scale from 1/4 to 4; black = dead

constexpr int kLevels = 17;

// 0 = dead or nearly (below 1/64 of its share), else 1 .. kLevels with balance in the middle.
int level_of(double load) {
  if (!(load >= 1.0 / 64)) return 0;
  const double t = std::clamp(std::log2(load) / 2, -1.0, 1.0);
  return 1 + static_cast<int>(std::lround((t + 1) / 2 * (kLevels - 1)));
}

std::string color_of(int level) {
  if (level == 0) return "#1a1a1a";
  return diverging_color(2.0 * (level - 1) / (kLevels - 1) - 1);
}

// All cells of one colour are one path in units of cells; neighbours in a row are joined.
std::string cells_of_level(const std::vector<LayerLoad>& load, int level) {
  std::string path;
  for (std::size_t l = 0; l < load.size(); ++l) {
    const std::vector<double>& row = load[l].load_E;
    for (std::size_t e = 0, end = 0; e < row.size(); e = end) {
      for (end = e + 1; end < row.size() && level_of(row[end]) == level_of(row[e]);) ++end;
      if (level_of(row[e]) != level) continue;
      const std::string x = std::to_string(e);
      path.append("M").append(x).append(" ").append(std::to_string(l));
      path.append("h").append(std::to_string(end - e)).append("v1H").append(x).append("z");
    }
  }
  return path;
}

void draw_cell_values(SvgDocument& svg, const RunPicture& run, const Box& box, double cell_w, double cell_h) {
  if (cell_w < 34 || cell_h < 15) return;
  for (std::size_t l = 0; l < run.load.size(); ++l)
    for (std::size_t e = 0; e < run.load[l].load_E.size(); ++e) {
      const double load = run.load[l].load_E[e];
      const int level = level_of(load);
      const bool dark = level <= 4 || level >= kLevels - 3;
      svg.text(box.x + cell_w * (static_cast<double>(e) + 0.5), box.y + cell_h * (static_cast<double>(l) + 0.5) + 4,
               readable_number(std::round(load * 100) / 100), 12, Anchor::kMiddle, dark ? "fill=\"#ffffff\"" : kInk);
    }
}

// Labels of cells: the centre of row or column i carries the name of layer or expert i; about `wanted` of them.
std::vector<std::size_t> labelled(std::size_t count, int wanted) {
  std::vector<std::size_t> out;
  for (const double tick : nice_ticks(0, static_cast<double>(count - 1), wanted, true))
    out.push_back(static_cast<std::size_t>(tick));
  return out;
}

void draw_load_legend(SvgDocument& svg, double x, double y) {
  const double w = 15;
  svg.text(x, y - 8, "load of an expert / balanced load", 12, Anchor::kStart, kInk);
  for (int level = 0; level <= kLevels; ++level)
    svg.rect(x + w * (level ? level + 1 : 0), y, w, 14, "fill=\"" + color_of(level) + "\"");
  svg.rect(x, y, w, 14, kFrame);
  svg.rect(x + 2 * w, y, w * kLevels, 14, kFrame);
  svg.text(x + w / 2, y + 28, "dead", 11, Anchor::kMiddle, kInk);
  const std::array<const char*, 5> names{"\u00bc", "\u00bd", "1", "2", "4"};
  for (int i = 0; i < 5; ++i)
    svg.text(x + w * (2.5 + 4 * i), y + 28, names[static_cast<std::size_t>(i)], 11, Anchor::kMiddle, kInk);
}

void draw_load(SvgDocument& svg, const RunPicture& run) {
  std::size_t num_experts = 0;
  for (const LayerLoad& row : run.load) num_experts = std::max(num_experts, row.load_E.size());
  svg.text(kLoadBox.x, kLoadBox.y - 12, "expert load by layer", 13, Anchor::kStart, kInk);
  if (num_experts == 0) {
    svg.rect(kLoadBox.x, kLoadBox.y, kLoadBox.w, kLoadBox.h, kFrame);
    svg.text(kLoadBox.x + kLoadBox.w / 2, kLoadBox.y + kLoadBox.h / 2, "no expert layers", 14, Anchor::kMiddle, kSoftInk);
    return;
  }
  const double rows = static_cast<double>(run.load.size()), columns = static_cast<double>(num_experts);
  const double cell_w = kLoadBox.w / columns, cell_h = std::fmin(kLoadBox.h / rows, 64);
  const Box box{kLoadBox.x, kLoadBox.y, kLoadBox.w, cell_h * rows};
  // Scales need more decimals than coordinates: 0.01 of a pixel times 512 experts would be seen.
  svg.raw("<g shape-rendering=\"crispEdges\" transform=\"translate(" + svg_number(box.x) + " " + svg_number(box.y) +
          ") scale(" + svg_number(cell_w, 6) + " " + svg_number(cell_h, 6) + ")\">\n");
  for (int level = 0; level <= kLevels; ++level) {
    const std::string path = cells_of_level(run.load, level);
    if (!path.empty()) svg.raw("<path fill=\"" + color_of(level) + "\" d=\"" + path + "\"/>\n");
  }
  svg.raw("</g>\n");
  svg.rect(box.x, box.y, box.w, box.h, kFrame);
  draw_cell_values(svg, run, box, cell_w, cell_h);
  for (const std::size_t l : labelled(run.load.size(), 10))
    svg.text(box.x - 8, box.y + cell_h * (static_cast<double>(l) + 0.5) + 4, std::to_string(run.load[l].layer), 12,
             Anchor::kEnd, kInk);
  for (const std::size_t e : labelled(num_experts, 8))
    svg.text(box.x + cell_w * (static_cast<double>(e) + 0.5), box.bottom() + 18, std::to_string(e), 12, Anchor::kMiddle,
             kInk);
  svg.text(box.x + box.w / 2, box.bottom() + 38, "expert", 13, Anchor::kMiddle, kInk);
  svg.text(0, 0, "layer", 13, Anchor::kMiddle,
           "fill=\"#222222\" transform=\"translate(" + svg_number(box.x - 40) + " " + svg_number(box.y + box.h / 2) +
               ") rotate(-90)\"");
  draw_load_legend(svg, box.x, std::fmin(box.bottom() + 72, kHeight - 42));
}

}  // namespace

std::string draw_run_svg(const RunPicture& run) {
  SvgDocument svg(kWidth, kHeight, run.title);
  svg.raw("<text x=\"24\" y=\"36\" font-size=\"20\" font-weight=\"bold\" fill=\"#222222\">" + svg_text(run.title, 80) +
          "</text>\n");
  svg.raw("<text x=\"24\" y=\"60\" font-size=\"13\" fill=\"#666666\">" + svg_text(run.subtitle, 140) + "</text>\n");
  const Scale x = step_scale(run, kLossBox);
  draw_x_axis(svg, kLossBox, kVioBox, x);
  draw_loss_legend(svg, run);
  draw_loss(svg, run, x);
  draw_strip(svg, run, x, kLrBox, &CurvePoint::lr, "learning rate");
  draw_strip(svg, run, x, kVioBox, &CurvePoint::max_vio, "worst expert load / balanced load \u2212 1");
  draw_load(svg, run);
  return std::move(svg).finish();
}

}  // namespace moe
