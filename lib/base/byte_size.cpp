#include "lib/base/byte_size.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "lib/base/error.h"
#include "lib/base/text_list.h"

namespace moe {

std::int64_t parse_byte_size(const std::string& text, const std::string& what) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  std::string unit(end);
  if (unit.ends_with("iB")) unit.resize(unit.size() - 2);
  if (unit.size() == 2 && unit.ends_with("B")) unit.resize(1);
  const std::string kUnits = "KMGT";
  const std::size_t power = unit.empty() ? 0 : kUnits.find(unit) + 1;
  const double bytes = number * std::pow(1024.0, static_cast<double>(power));
  const bool is_known = unit.empty() || (unit.size() == 1 && power > 0);
  if (end == text.c_str() || !is_known || !(bytes >= 1) || bytes > 0x1p62)
    throw Error(Exit::kUsage, what + ": expected a size as 512M or 2G, found '" + text + "'");
  return static_cast<std::int64_t>(bytes);
}

std::vector<std::int64_t> parse_byte_sizes(const std::string& text, const std::string& what, std::size_t count) {
  std::vector<std::int64_t> bytes;
  for (const std::string& part : split_list(text)) bytes.push_back(parse_byte_size(part, what));
  if (bytes.size() == 1) bytes.resize(count, bytes[0]);
  if (bytes.size() != count)
    throw Error(Exit::kUsage, what + ": expected one size, or one for each of " + std::to_string(count) + ", found " +
                                  std::to_string(bytes.size()));
  return bytes;
}

std::string bytes_text(double bytes) {
  const char* const kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  int u = 0;
  for (; bytes >= 1024 && u < 5; ++u) bytes /= 1024;
  char text[40];
  std::snprintf(text, sizeof text, u == 0 ? "%.0f %s" : "%.2f %s", bytes, kUnits[u]);
  return text;
}

}  // namespace moe
