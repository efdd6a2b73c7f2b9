#include "lib/run/scaling_picture.h"

#include <algorithm>
#include <cmath>

#include "lib/run/svg.h"

namespace moe {
namespace {

constexpr double kWidth = 760, kHeight = 500;
constexpr double kLeft = 76, kTop = 88, kRight = 730, kBottom = 430;
constexpr int kCurvePoints = 80;
constexpr const char* kInk = "fill=\"#222222\"";
constexpr const char* kSoftInk = "fill=\"#666666\"";
constexpr const char* kGrid = "stroke=\"#e4e4e4\" stroke-width=\"1\"";
constexpr const char* kRunFill = "fill=\"#4c78a8\"";
constexpr const char* kNextInk = "fill=\"#d9480f\"";

// Logarithmic: Scale of ln.
struct LogScale {
  Scale ln;
  double operator()(double value) const { return ln(std::log(value)); }
};

struct Axes {
  LogScale x, y;
  double low_loss = 0, high_loss = 0, low_flop = 0, high_flop = 0;
};

// Everything that is drawn lies inside, with some room around it.
Axes axes_of(const ScalingPicture& p, const ScalingFit& fit) {
  Axes a{.low_flop = p.points.front().flop, .high_flop = std::max(p.points.back().flop, p.predicted_flop)};
  a.low_loss = a.high_loss = p.points.front().loss;
  const auto take = [&](double loss) {
    a.low_loss = std::fmin(a.low_loss, loss), a.high_loss = std::fmax(a.high_loss, loss);
  };
  for (const ScalingPoint& point : p.points) take(point.loss), take(fit.law()(point.flop));
  const ScalingPrediction next = fit.predict(p.predicted_flop, p.probability);
  for (const double loss : {next.loss, next.low.value_or(next.loss), next.high.value_or(next.loss)}) take(loss);
  const double room_x = std::fmax(0.06 * std::log(a.high_flop / a.low_flop), 0.05);
  const double room_y = std::fmax(0.08 * std::log(a.high_loss / a.low_loss), 0.01);
  a.low_flop *= std::exp(-room_x), a.high_flop *= std::exp(room_x);
  a.low_loss *= std::exp(-room_y), a.high_loss *= std::exp(room_y);
  a.x = {{std::log(a.low_flop), std::log(a.high_flop), kLeft, kRight}};
  a.y = {{std::log(a.low_loss), std::log(a.high_loss), kBottom, kTop}};
  return a;
}

std::string power_text(double flop) {
  const int power = static_cast<int>(std::floor(std::log10(flop) + 1e-9));
  const int digit = static_cast<int>(std::lround(flop / std::pow(10, power)));
  return std::to_string(digit) + "e" + std::to_string(power);
}

// 1, 2 and 5 times powers of ten, or the powers alone where there are many.
std::vector<double> flop_ticks(double low, double high) {
  std::vector<double> ticks;
  const bool is_wide = high / low > 1e3;
  for (double power = std::pow(10, std::floor(std::log10(low))); power <= high; power *= 10)
    for (const double digit : {1.0, 2.0, 5.0})
      if ((digit == 1 || !is_wide) && digit * power >= low && digit * power <= high) ticks.push_back(digit * power);
  return ticks;
}

void draw_axes(SvgDocument& svg, const ScalingPicture& p, const Axes& a) {
  for (const double tick : flop_ticks(a.low_flop, a.high_flop)) {
    svg.line(a.x(tick), kTop, a.x(tick), kBottom, kGrid);
    svg.text(a.x(tick), kBottom + 18, power_text(tick), 12, Anchor::kMiddle, kInk);
  }
  for (const double tick : nice_ticks(a.low_loss, a.high_loss, 7)) {
    svg.line(kLeft, a.y(tick), kRight, a.y(tick), kGrid);
    svg.text(kLeft - 8, a.y(tick) + 4, readable_number(tick), 12, Anchor::kEnd, kInk);
  }
  svg.rect(kLeft, kTop, kRight - kLeft, kBottom - kTop, "fill=\"none\" stroke=\"#888888\" stroke-width=\"1\"");
  svg.text((kLeft + kRight) / 2, kBottom + 42, "training compute (FLOP, active parameters)", 13, Anchor::kMiddle, kInk);
  svg.text(0, 0, p.loss_name, 13, Anchor::kMiddle,
           "fill=\"#222222\" transform=\"translate(22 " + svg_number((kTop + kBottom) / 2) + ") rotate(-90)\"");
}

void draw_law(SvgDocument& svg, const ScalingPicture& p, const ScalingFit& fit, const Axes& a) {
  std::vector<std::pair<double, double>> curve, band, lower;
  for (int i = 0; i < kCurvePoints; ++i) {
    const double flop = a.low_flop * std::pow(a.high_flop / a.low_flop, i / (kCurvePoints - 1.0));
    const ScalingPrediction at = fit.predict(flop, p.probability);
    const auto inside = [&](double loss) { return a.y(std::clamp(loss, a.low_loss, a.high_loss)); };
    curve.emplace_back(a.x(flop), inside(at.loss));
    if (!at.low) continue;
    band.emplace_back(a.x(flop), inside(*at.high));
    lower.emplace_back(a.x(flop), inside(*at.low));
  }
  band.insert(band.end(), lower.rbegin(), lower.rend());
  svg.polygon(band, "fill=\"#4c78a8\" fill-opacity=\"0.15\" stroke=\"none\"");
  svg.polyline(curve, "stroke=\"#4c78a8\" stroke-width=\"1.6\"");
}

void draw_runs(SvgDocument& svg, const ScalingPicture& p, const Axes& a) {
  for (std::size_t i = 0; i < p.points.size(); ++i) {
    const double x = a.x(p.points[i].flop), y = a.y(p.points[i].loss);
    svg.circle(x, y, 4.5, kRunFill);
    svg.text(x + 8, y - 8, p.names[i] + "  " + readable_number(p.points[i].loss, 4), 11, Anchor::kStart, kSoftInk);
  }
}

void draw_next(SvgDocument& svg, const ScalingPicture& p, const ScalingFit& fit, const Axes& a) {
  const ScalingPrediction next = fit.predict(p.predicted_flop, p.probability);
  const double x = a.x(p.predicted_flop), y = a.y(next.loss);
  constexpr const char* kStroke = "stroke=\"#d9480f\" stroke-width=\"2\"";
  if (next.low) {
    svg.line(x, a.y(*next.low), x, a.y(*next.high), kStroke);
    for (const double end : {*next.low, *next.high}) svg.line(x - 5, a.y(end), x + 5, a.y(end), kStroke);
  }
  svg.circle(x, y, 4.5, std::string("fill=\"#ffffff\" ") + kStroke);
  svg.text(x - 10, y + 18, "predicted " + readable_number(next.loss, 4), 11, Anchor::kEnd, kNextInk);
}

}  // namespace

std::string draw_scaling_svg(const ScalingPicture& p, const ScalingFit& fit) {
  SvgDocument svg(kWidth, kHeight, p.title);
  svg.text(24, 34, p.title, 18, Anchor::kStart, std::string("font-weight=\"bold\" ") + kInk);
  svg.text(24, 58, p.subtitle, 13, Anchor::kStart, kSoftInk);
  const Axes axes = axes_of(p, fit);
  draw_axes(svg, p, axes);
  draw_law(svg, p, fit, axes);
  draw_runs(svg, p, axes);
  draw_next(svg, p, fit, axes);
  return std::move(svg).finish();
}

}  // namespace moe
