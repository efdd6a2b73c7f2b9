#include "lib/base/utf8.h"

#include <cstdint>

namespace moe {

char32_t utf8_character(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[i + k]); };
  const std::size_t n = byte(0) < 0x80 ? 1 : byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  std::uint32_t code = n == 1 ? byte(0) : byte(0) & (0xFFu >> (n + 1));  // the bits that are the character's
  for (std::size_t k = 1; k < n; ++k) code = code << 6 | (byte(k) & 0x3Fu);
  return code;
}

std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto byte = [&](std::size_t k) { return static_cast<unsigned char>(text[i + k]); };
  if (byte(0) < 0x80) return 1;
  const std::size_t n = byte(0) >= 0xF0 ? 4 : byte(0) >= 0xE0 ? 3 : 2;
  if (byte(0) < 0xC2 || byte(0) > 0xF4 || i + n > text.size()) return 0;
  for (std::size_t k = 1; k < n; ++k)
    if ((byte(k) & 0xC0) != 0x80) return 0;
  const char32_t code = utf8_character(text, i);
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};
  return code < kSmallest[n] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : n;
}

void append_utf8(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
    return;
  }
  const int more = c >= 0x10000 ? 3 : c >= 0x800 ? 2 : 1;
  text += static_cast<char>((0xF0u << (3 - more) & 0xFF) | c >> (6 * more));  // 110xxxxx, 1110xxxx, 11110xxx
  for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (c >> (6 * i) & 0x3F));
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
