#include "lib/run/eval_tasks_text.h"

#include <algorithm>
#include <clocale>
#include <cwctype>

#include "lib/base/utf8.h"

namespace moe {
namespace {

// The character at `at`, which moves behind it; U+FFFD for a byte that is none.
char32_t next_character(std::string_view text, std::size_t& at) {
  const std::size_t n = utf8_length(text, at);
  const char32_t c = n > 0 ? utf8_character(text, at) : U'\uFFFD';
  at += std::max<std::size_t>(1, n);
  return c;
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

bool is_utf8(std::string_view text) { return utf8_end(text, 0) == text.size(); }

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
    append_utf8(out, first ? table.upper(c) : table.lower(c));
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
