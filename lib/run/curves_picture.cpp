#include "lib/run/curves_picture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "lib/run/svg.h"

namespace moe {
namespace {

constexpr double kWidth = 1080, kTop = 92, kBottom = 400, kPanelWidth = 440;
constexpr int kBins = 110;  // of a curve: a long run stays a small file
constexpr const char* kInk = "fill=\"#222222\"";
constexpr const char* kGrid = "stroke=\"#e4e4e4\" stroke-width=\"1\"";
// Okabe and Ito's colours, for people with any sort of colour vision.
constexpr std::array<const char*, 7> kColors{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000"};

using Values = std::vector<double> RunCurve::*;
using Points = std::vector<std::pair<double, double>>;

// Means over equal stretches of steps.
Points binned(const RunCurve& run, Values values, std::int64_t last_step) {
  std::vector<double> sum_step(kBins), sum(kBins), count(kBins);
  for (std::size_t i = 0; i < run.step_N.size(); ++i) {
    const double value = (run.*values)[i];
    if (!std::isfinite(value)) continue;
    const auto bin = static_cast<std::size_t>(std::min<std::int64_t>(run.step_N[i] * kBins / (last_step + 1), kBins - 1));
    sum_step[bin] += static_cast<double>(run.step_N[i]), sum[bin] += value, ++count[bin];
  }
  Points points;
  for (std::size_t b = 0; b < kBins; ++b)
    if (count[b] > 0) points.emplace_back(sum_step[b] / count[b], sum[b] / count[b]);
  return points;
}

struct Panel {
  double left;
  const char* name;
  Values values;
  bool from_zero;
};

void draw_panel(SvgDocument& svg, const Panel& panel, const std::vector<RunCurve>& runs, std::int64_t last_step) {
  std::vector<Points> curves;
  double low = std::numeric_limits<double>::infinity(), high = -low;
  for (const RunCurve& run : runs) {
    curves.push_back(binned(run, panel.values, last_step));
    for (const auto& [step, value] : curves.back()) low = std::fmin(low, value), high = std::fmax(high, value);
  }
  if (!(low <= high)) low = 0, high = 1;
  const double room = std::fmax(0.05 * (high - low), 1e-3);
  const Scale x{0, static_cast<double>(last_step), panel.left, panel.left + kPanelWidth};
  const Scale y{panel.from_zero ? 0 : low - room, high + room, kBottom, kTop};
  for (const double tick : nice_ticks(y.low, y.high, 7)) {
    svg.line(panel.left, y(tick), x.to, y(tick), kGrid);
    svg.text(panel.left - 8, y(tick) + 4, readable_number(tick), 12, Anchor::kEnd, kInk);
  }
  for (const double tick : nice_ticks(x.low, x.high, 5, true)) {
    svg.line(x(tick), kTop, x(tick), kBottom, kGrid);
    svg.text(x(tick), kBottom + 18, readable_number(tick, 9), 12, Anchor::kMiddle, kInk);
  }
  svg.rect(panel.left, kTop, kPanelWidth, kBottom - kTop, "fill=\"none\" stroke=\"#888888\" stroke-width=\"1\"");
  svg.text(panel.left, kTop - 10, panel.name, 13, Anchor::kStart, kInk);
  svg.text(panel.left + kPanelWidth / 2, kBottom + 40, "step", 13, Anchor::kMiddle, kInk);
  for (std::size_t r = 0; r < curves.size(); ++r) {
    for (auto& [step, value] : curves[r]) step = x(step), value = y(value);
    svg.polyline(curves[r], "stroke=\"" + std::string(kColors[r % kColors.size()]) +
                                "\" stroke-linejoin=\"round\" stroke-width=\"1.6\"");
  }
}

void draw_names(SvgDocument& svg, const std::vector<RunCurve>& runs) {
  double x = 64;
  for (std::size_t r = 0; r < runs.size(); ++r) {
    svg.line(x, 56, x + 24, 56, "stroke=\"" + std::string(kColors[r % kColors.size()]) + "\" stroke-width=\"3\"");
    svg.text(x + 30, 60, runs[r].name, 12, Anchor::kStart, kInk);
    x += 52 + 7.5 * static_cast<double>(std::min<std::size_t>(runs[r].name.size(), 24));
  }
}

}  // namespace

double end_of(const std::vector<double>& value_N) {
  double sum = 0, count = 0;
  const std::size_t first = value_N.size() - (value_N.size() + 9) / 10;
  for (std::size_t i = first; i < value_N.size(); ++i)
    if (std::isfinite(value_N[i])) sum += value_N[i], ++count;
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

std::string draw_curves_svg(const std::string& title, const std::vector<RunCurve>& runs) {
  std::int64_t last_step = 1;
  for (const RunCurve& run : runs)
    if (!run.step_N.empty()) last_step = std::max(last_step, run.step_N.back());
  SvgDocument svg(kWidth, kBottom + 60, title);
  svg.text(24, 32, title, 17, Anchor::kStart, std::string("font-weight=\"bold\" ") + kInk);
  draw_names(svg, runs);
  draw_panel(svg, {64, "training loss (nats per token)", &RunCurve::loss_N, false}, runs, last_step);
  draw_panel(svg, {594, "MaxVio of a batch: worst expert load / balanced load \u2212 1", &RunCurve::max_vio_N, true}, runs,
             last_step);
  return std::move(svg).finish();
}

}  // namespace moe
