// The little of SVG that pictures of runs need: escaped text, short numbers, round axis ticks, a growing document.
// Everything here is pure. Not here: what a picture shows (picture.cpp).
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moe {

// Text that is safe between tags and in attributes: & < > " escaped, control characters and broken UTF-8 replaced by
// '?', cut to max_chars characters with an ellipsis.
std::string svg_text(std::string_view text, std::size_t max_chars = 120);

// A coordinate: no trailing zeros, never in exponent notation; 0 for what is not finite.
std::string svg_number(double value, int max_decimals = 2);

// For readers: 12500 -> "12,500", 0.00012 -> "1.2e-4", 1.5 -> "1.5"; `digits` significant digits.
std::string readable_number(double value, int digits = 3);

// Ascending multiples of 1, 2 or 5 times a power of ten inside [low, high], about `wanted` of them; whole numbers only
// if `whole`. low == high gives that one value.
std::vector<double> nice_ticks(double low, double high, int wanted, bool whole = false);

// A linear map of [low, high] to [from, to]; an empty interval maps to the middle.
struct Scale {
  double low = 0, high = 1, from = 0, to = 1;
  double operator()(double value) const {
    return high > low ? from + (to - from) * (value - low) / (high - low) : (from + to) / 2;
  }
};

enum class Anchor { kStart, kMiddle, kEnd };

// "#rrggbb" of a place on the scale blue (-1) - white (0) - red (1), which people with any sort of colour vision can read
// (ColorBrewer's RdBu).
std::string diverging_color(double place);

class SvgDocument {
 public:
  SvgDocument(double width, double height, std::string_view title);
  void rect(double x, double y, double w, double h, std::string_view attributes);
  void line(double x1, double y1, double x2, double y2, std::string_view attributes);
  void circle(double x, double y, double r, std::string_view attributes);
  // Both draw nothing for fewer than two points.
  void polyline(const std::vector<std::pair<double, double>>& points, std::string_view attributes);
  void polygon(const std::vector<std::pair<double, double>>& points, std::string_view attributes);
  void text(double x, double y, std::string_view words, double size, Anchor anchor = Anchor::kStart,
            std::string_view attributes = "");
  // Markup of the caller's own making, already escaped and balanced.
  void raw(std::string_view markup) { out_ += markup; }
  std::string finish() &&;

 private:
  void element(std::string_view tag, std::initializer_list<std::pair<const char*, double>> values,
               std::string_view attributes);
  void points(std::string_view tag, const std::vector<std::pair<double, double>>& points, std::string_view attributes);
  std::string out_;
};

}  // namespace moe
