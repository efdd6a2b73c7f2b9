#include "lib/run/eval_tasks_text.h"

#include <clocale>
#include <cwctype>

namespace moe {
namespace {

// The code point at `at`, which moves behind it; -1 if the bytes are not UTF-8.
char32_t next_character(std::string_view text, std::size_t& at) {
  constexpr char32_t kBad = static_cast<char32_t>(-1), kLeast[] = {0, 0x80, 0x800, 0x10000};
  const auto lead = static_cast<unsigned char>(text[at++]);
  if (lead < 0x80) return lead;
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : 1;
  if (lead < 0xC2 || lead > 0xF4 || at + static_cast<std::size_t>(more) > text.size()) return kBad;
  char32_t c = lead & (0x3Fu >> more);
  for (int i = 0; i < more; ++i) {
    const auto byte = static_cast<unsigned char>(text[at++]);
    if ((byte & 0xC0) != 0x80) return kBad;
    c = c << 6 | (byte & 0x3F);
  }
  return c < kLeast[more] || c > 0x10FFFF || (c >= 0xD800 && c < 0xE000) ? kBad : c;
}

void append_character(std::string& text, char32_t c) {
  if (c < 0x80) {
    text += static_cast<char>(c);
    return;
  }
  const int more = c >= 0x10000 ? 3 : c >= 0x800 ? 2 : 1;
  text += static_cast<char>((0xF0u << (3 - more) & 0xFF) | c >> (6 * more));  // 110xxxxx, 1110xxxx, 11110xxx
  for (int i = more - 1; i >= 0; --i) text += static_cast<char>(0x80 | (c >> (6 * i) & 0x3F));
}

// What str.isspace() says.
bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

// The C library's case tables, of its own UTF-8 locale: the process's locale has no say. ASCII only where there is none.
class CaseTable {
 public:
  CaseTable() : locale_(::newlocale(LC_CTYPE_MASK, "C.UTF-8", nullptr)) {}
  CaseTable(const CaseTable&) = delete;
  CaseTable& operator=(const CaseTable&) = delete;
  ~CaseTable() {
    if (locale_ != nullptr) ::freelocale(locale_);
  }
  char32_t upper(char32_t c) const {
    if (locale_ != nullptr) return static_cast<char32_t>(::towupper_l(static_cast<wint_t>(c), locale_));
    return c >= 'a' && c <= 'z' ? c - 32 : c;
  }
  char32_t lower(char32_t c) const {
    if (locale_ != nullptr) return static_cast<char32_t>(::towlower_l(static_cast<wint_t>(c), locale_));
    return c >= 'A' && c <= 'Z' ? c + 32 : c;
  }

 private:
  locale_t locale_;
};

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

// Without "[...]": from each bracket to the next closing one, unless a line ends before that.
std::string without_brackets(std::string_view text) {
  std::string kept;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::size_t end = text[at] == '[' ? text.find_first_of("]\n", at) : std::string_view::npos;
    if (end != std::string_view::npos && text[end] == ']')
      at = end;
    else
      kept += text[at];
  }
  return kept;
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (std::size_t at = 0; at < text.size();)
    if (next_character(text, at) == static_cast<char32_t>(-1)) return false;
  return true;
}

std::size_t num_characters(std::string_view text) {
  std::size_t n = 0;
  for (const char c : text) n += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return n;
}

std::string_view strip_left(std::string_view text) {
  for (std::size_t at = 0, begin = 0; at < text.size(); begin = at)
    if (!is_space(next_character(text, at))) return text.substr(begin);
  return {};
}

std::string_view strip_right(std::string_view text) {
  std::size_t end = 0;
  for (std::size_t at = 0; at < text.size();)
    if (!is_space(next_character(text, at))) end = at;
  return text.substr(0, end);
}

std::string_view strip(std::string_view text) { return strip_left(strip_right(text)); }

std::string capitalize(std::string_view text) {
  const CaseTable table;
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const bool first = at == 0;
    const char32_t c = next_character(text, at);
    append_character(out, first ? table.upper(c) : table.lower(c));
  }
  return out;
}

std::string clean_hellaswag(std::string_view text) {
  std::string out(strip(text));
  replace_all(out, " [title]", ". ");
  out = without_brackets(out);
  replace_all(out, "  ", " ");
  return out;
}

}  // namespace moe
