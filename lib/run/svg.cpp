#include "lib/run/svg.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>

#include "lib/base/utf8.h"

namespace moe {
namespace {

// Length of the UTF-8 character that starts at text[i]; 0 if it is broken or one that XML forbids (U+xxFFFE, U+xxFFFF).
std::size_t xml_length(std::string_view text, std::size_t i) {
  const std::size_t n = utf8_length(text, i);
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[i + k]); };
  const bool ends_plane =
      n >= 3 && byte(n - 1) >= 0xBE && byte(n - 2) == 0xBF && (n == 3 ? byte(0) == 0xEF : (byte(1) & 0xF) == 0xF);
  return ends_plane ? 0 : n;
}

std::string escaped(std::string_view character) {
  if (character.size() == 1) {
    const char c = character[0];
    if (c == '&') return "&amp;";
    if (c == '<') return "&lt;";
    if (c == '>') return "&gt;";
    if (c == '"') return "&quot;";
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return "?";
  }
  return std::string(character);
}

// std::to_chars: the same in every locale.
std::string fixed(double value, int decimals) {
  char buffer[400];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed, decimals).ptr;
  return {buffer, end};
}

std::string without_trailing_zeros(std::string number) {
  if (number.find('.') == std::string::npos) return number;
  number.erase(number.find_last_not_of('0') + 1);
  if (number.back() == '.') number.pop_back();
  return number == "-0" ? "0" : number;
}

std::string with_thousands(std::string digits) {
  const std::size_t first = digits[0] == '-' ? 1 : 0;
  const std::size_t dot = std::min(digits.find('.'), digits.size());
  for (std::size_t i = dot; i > first + 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

// The smallest of 1, 2, 5 x 10^n that is not below `spacing`, as axes are drawn by hand.
double nice_step(double spacing) {
  const double power = std::pow(10.0, std::floor(std::log10(spacing)));
  const double f = spacing / power;
  return power * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}

const char* name_of(Anchor anchor) {
  return anchor == Anchor::kStart ? "start" : anchor == Anchor::kMiddle ? "middle" : "end";
}

}  // namespace

std::string svg_text(std::string_view text, std::size_t max_chars) {
  std::string out;
  std::size_t chars = 0;
  for (std::size_t i = 0; i < text.size(); ++chars) {
    if (chars == max_chars) return out + "\u2026";
    const std::size_t n = xml_length(text, i);
    out += n ? escaped(text.substr(i, n)) : "?";
    i += n ? n : 1;
  }
  return out;
}

std::string svg_number(double value, int max_decimals) {
  return without_trailing_zeros(fixed(std::isfinite(value) ? value : 0, max_decimals));
}

std::string readable_number(double value, int digits) {
  if (value == 0) return "0";
  if (!std::isfinite(value)) return "?";
  const int magnitude = static_cast<int>(std::floor(std::log10(std::fabs(value))));
  if (magnitude >= -3 && magnitude < 9)
    return with_thousands(without_trailing_zeros(fixed(value, std::max(0, digits - 1 - magnitude))));
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific, digits - 1).ptr;
  const std::string all(buffer, end);
  const std::size_t e = all.find('e');
  return without_trailing_zeros(all.substr(0, e)) + "e" + std::to_string(std::stoi(all.substr(e + 1)));
}

std::vector<double> nice_ticks(double low, double high, int wanted, bool whole) {
  if (!(std::isfinite(low) && std::isfinite(high))) return {};
  if (high <= low) return {low};
  double step = nice_step((high - low) / wanted);
  if (whole) step = std::fmax(step, 1);
  std::vector<double> ticks;
  const std::size_t most = 4 * static_cast<std::size_t>(wanted);  // where ++k is lost in rounding the loop must still end
  for (double k = std::ceil(low / step - 1e-9); k * step <= high + step * 1e-9 && ticks.size() < most; ++k)
    ticks.push_back(k * step);
  return ticks;
}

std::string diverging_color(double place) {
  constexpr std::array<std::array<double, 3>, 7> kStops{
      {{33, 102, 172}, {103, 169, 207}, {209, 229, 240}, {247, 247, 247}, {253, 219, 199}, {239, 138, 98}, {178, 24, 43}}};
  const double at = (std::clamp(place, -1.0, 1.0) + 1) * 3;
  const std::size_t i = std::min<std::size_t>(static_cast<std::size_t>(at), 5);
  char hex[8];
  const auto mix = [&](std::size_t c) {
    return static_cast<unsigned>(
        std::lround(kStops[i][c] + (kStops[i + 1][c] - kStops[i][c]) * (at - static_cast<double>(i))));
  };
  std::snprintf(hex, sizeof hex, "#%02x%02x%02x", mix(0), mix(1), mix(2));
  return hex;
}

SvgDocument::SvgDocument(double width, double height, std::string_view title) {
  const std::string w = svg_number(width), h = svg_number(height);
  out_ = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w +
         "\" height=\"" + h + "\" viewBox=\"0 0 " + w + " " + h +
         "\" font-family=\"DejaVu Sans, Verdana, Arial, sans-serif\">\n<title>" + svg_text(title) + "</title>\n";
  rect(0, 0, width, height, "fill=\"#ffffff\"");
}

// <tag name="value" ... attributes/>
void SvgDocument::element(std::string_view tag, std::initializer_list<std::pair<const char*, double>> values,
                          std::string_view attributes) {
  out_.append("<").append(tag);
  for (const auto& [name, value] : values)
    out_.append(" ").append(name).append("=\"").append(svg_number(value)).append("\"");
  out_.append(" ").append(attributes).append("/>\n");
}

void SvgDocument::rect(double x, double y, double w, double h, std::string_view attributes) {
  element("rect", {{"x", x}, {"y", y}, {"width", w}, {"height", h}}, attributes);
}
void SvgDocument::line(double x1, double y1, double x2, double y2, std::string_view attributes) {
  element("line", {{"x1", x1}, {"y1", y1}, {"x2", x2}, {"y2", y2}}, attributes);
}
void SvgDocument::circle(double x, double y, double r, std::string_view attributes) {
  element("circle", {{"cx", x}, {"cy", y}, {"r", r}}, attributes);
}

void SvgDocument::points(std::string_view tag, const std::vector<std::pair<double, double>>& points,
                         std::string_view attributes) {
  if (points.size() < 2) return;
  out_.append("<").append(tag).append(" points=\"");
  for (const auto& [x, y] : points) out_.append(svg_number(x)).append(",").append(svg_number(y)).append(" ");
  out_.back() = '"';
  out_.append(" ").append(attributes).append("/>\n");
}

void SvgDocument::polyline(const std::vector<std::pair<double, double>>& p, std::string_view attributes) {
  points("polyline", p, "fill=\"none\" " + std::string(attributes));
}
void SvgDocument::polygon(const std::vector<std::pair<double, double>>& p, std::string_view attributes) {
  points("polygon", p, attributes);
}

void SvgDocument::text(double x, double y, std::string_view words, double size, Anchor anchor, std::string_view attributes) {
  out_ += "<text x=\"" + svg_number(x) + "\" y=\"" + svg_number(y) + "\" font-size=\"" + svg_number(size) +
          "\" text-anchor=\"" + name_of(anchor) + "\" " + std::string(attributes) + ">" + svg_text(words) + "</text>\n";
}

std::string SvgDocument::finish() && { return std::move(out_) + "</svg>\n"; }

}  // namespace moe
