#include "lib/io/tokenizer_bpe_pattern.h"

#include <algorithm>
#include <cctype>
#include <charconv>

#include "lib/base/error.h"

namespace moe {
namespace {

// White_Space of Unicode, which is Oniguruma's \s; PCRE2's also has U+180E.
constexpr const char* kSpaces =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

class Translator {
 public:
  Translator(const std::string& in, const std::string& where) : in_(in), where_(where) {}

  std::string translate() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\')
        out_ += escape(false);
      else if (c == '[')
        out_ += character_class();
      else if (c == '(')
        group();
      else if (c == '{')
        interval();
      else if (c == '.' || c == '^' || c == '$' || c == ']' || c == '}')
        refuse(1);
      else
        out_ += in_[at_++];  // itself, or one of | ) * + ?, which mean the same
    }
    return out_;
  }

 private:
  [[noreturn]] void refuse(std::size_t length) const {
    throw Error(Exit::kBadInput,
                where_ + ": '" + in_.substr(at_, length) + "' at byte " + std::to_string(at_) +
                    " of the regular expression is not supported",
                "other words than the model's would be the result");
  }
  bool next_is(std::string_view text) const { return std::string_view(in_).substr(at_).starts_with(text); }

  void group() {
    for (const char* start : {"(?:", "(?=", "(?!", "(?>", "(?i:"})
      if (next_is(start)) {
        at_ += std::string_view(start).size();
        out_ += start;
        return;
      }
    if (next_is("(?") || next_is("(*")) refuse(4);
    ++at_;
    out_ += "(?:";  // nobody asks for what was captured
  }

  int number() {
    int n = -1;
    const auto end = std::from_chars(in_.data() + at_, in_.data() + in_.size(), n).ptr;
    at_ = static_cast<std::size_t>(end - in_.data());
    return n;
  }

  // {m}, {m,} and {m,n}. What follows + or ? means something else in Oniguruma than in PCRE2.
  void interval() {
    const std::size_t begin = at_++;
    const int least = number();
    const bool comma = next_is(",");
    at_ += comma;
    const int most = next_is("}") ? least : number();
    if (least < 0 || most < least || most > 1000 || !next_is("}")) at_ = begin, refuse(8);
    ++at_;
    if (next_is("+") || next_is("?") || next_is("*")) at_ = begin, refuse(8);
    out_ += in_.substr(begin, at_ - begin);
  }

  std::string hexadecimal(std::size_t begin, std::size_t end, std::size_t next) {
    const std::string digits = in_.substr(begin, end - begin);
    const bool fine = !digits.empty() && digits.size() <= 6 &&
                      std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
    const unsigned long code = fine ? std::stoul(digits, nullptr, 16) : ~0ul;
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) || next > in_.size()) refuse(8);
    at_ = next;
    return "\\x{" + digits + "}";
  }

  // \p{Lu} and its like: general categories; the script Han, which PCRE2 would take to have more characters.
  std::string property() {
    const std::size_t end = in_.find('}', at_);
    if (in_.compare(at_ + 2, 1, "{") != 0 || end == std::string::npos) refuse(3);
    const std::string name = in_.substr(at_ + 3, end - at_ - 3);
    constexpr const char* kNames[] = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",
                                      "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po",
                                      "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "Han"};
    if (std::find(std::begin(kNames), std::end(kNames), name) == std::end(kNames)) refuse(end + 1 - at_);
    const std::string out = in_.substr(at_, 2) + (name == "Han" ? "{sc:Han}" : "{" + name + "}");
    at_ = end + 1;
    return out;
  }

  std::string escape(bool in_class) {
    const char c = at_ + 1 < in_.size() ? in_[at_ + 1] : '\0';
    is_set_ = c == 's' || c == 'S' || c == 'd' || c == 'D' || c == 'p' || c == 'P';
    if (c == 'p' || c == 'P') return property();
    if (c == 'x' && next_is("\\x{")) {
      const std::size_t end = std::min(in_.find('}', at_), in_.size());
      return hexadecimal(at_ + 3, end, end + 1);
    }
    if (c == 'x' && at_ + 2 < in_.size() && in_[at_ + 2] >= '8') refuse(4);  // a byte, no character
    if (c == 'x') return hexadecimal(at_ + 2, at_ + 4, at_ + 4);
    if (c == 'u') return hexadecimal(at_ + 2, at_ + 6, at_ + 6);
    const std::string two = in_.substr(at_, 2);
    if (c == 's') return at_ += 2, in_class ? kSpaces : std::string("[") + kSpaces + "]";
    if (c == 'S' && !in_class) return at_ += 2, std::string("[^") + kSpaces + "]";
    if (c == 'd' || c == 'D') return at_ += 2, c == 'd' ? "\\p{Nd}" : "\\P{Nd}";
    if (c == 'r' || c == 'n' || c == 't' || c == 'f' || std::ispunct(static_cast<unsigned char>(c))) return at_ += 2, two;
    refuse(2);
  }

  // The inside of a class up to its ']' or to '&&'.
  std::string items() {
    std::string out;
    bool after_set = false;
    while (!next_is("]") && !next_is("&&")) {
      if (at_ >= in_.size() || in_[at_] == '[') refuse(2);  // no end, or a class in a class
      const bool ends_range = after_set && in_[at_] == '-' && in_.compare(at_ + 1, 1, "]") != 0;
      if (ends_range) refuse(2);  // from a set to something
      is_set_ = false;
      out += in_[at_] == '\\' ? escape(true) : std::string(1, in_[at_++]);
      after_set = is_set_;
    }
    if (out.empty()) refuse(2);
    return out;
  }
  std::string opening() {
    ++at_;
    if (!next_is("^")) return "[";
    ++at_;
    return "[^";
  }

  // [a&&[^b]] becomes a look at b before a.
  std::string character_class() {
    const std::string open = opening(), first = open + items() + "]";
    if (next_is("]")) return ++at_, first;
    if (open == "[^") refuse(2);
    at_ += 2;
    if (!next_is("[")) refuse(2);
    const bool without = opening() == "[^";
    const std::string second = "[" + items() + "]";
    if (!next_is("]]")) refuse(2);
    at_ += 2;
    return std::string("(?:") + (without ? "(?!" : "(?=") + second + ")" + first + ")";
  }

  const std::string& in_;
  const std::string& where_;
  std::size_t at_ = 0;
  std::string out_;
  bool is_set_ = false;  // the last escape was of many characters
};

}  // namespace

std::string pcre2_of_oniguruma(const std::string& pattern, const std::string& where) {
  return Translator(pattern, where).translate();
}

}  // namespace moe
