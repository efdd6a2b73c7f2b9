#include "lib/base/utf8.h"

#include <cstdint>

namespace moe {

std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return static_cast<std::uint32_t>(static_cast<unsigned char>(text[i + k])); };
  if (byte(0) < 0x80) return 1;
  const std::size_t n = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || i + n > text.size()) return 0;
  std::uint32_t code = byte(0) & (0xFF >> (n + 1));
  for (std::size_t k = 1; k < n; ++k) {
    if ((byte(k) & 0xC0) != 0x80) return 0;
    code = code << 6 | (byte(k) & 0x3F);
  }
  constexpr std::uint32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  return code < kSmallest[n] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : n;
}

std::size_t utf8_end(std::string_view text, std::size_t i) {
  while (i < text.size()) {
    const std::size_t n = utf8_length(text, i);
    if (n == 0) break;
    i += n;
  }
  return i;
}

std::string mended_utf8(std::string_view text) {
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = utf8_end(text, begin);
    out += text.substr(begin, end - begin);
    if (end < text.size()) out += "\xEF\xBF\xBD";
    begin = end + 1;
  }
  return out;
}

}  // namespace moe
