// Whether a text that a tool made is well-formed XML, and free of numbers that are none. Not here: whether it is good SVG.
#pragma once

#include <cctype>
#include <string>
#include <vector>

namespace moe {

inline bool starts(const std::string& text, std::size_t at, const std::string& part) {
  return text.compare(at, part.size(), part) == 0;
}

// Reads `name="value"` pairs up to the end of the tag; "" or what is wrong.
inline std::string attributes_fault(const std::string& inside) {
  for (std::size_t at = inside.find_first_not_of(' '); at != std::string::npos; at = inside.find_first_not_of(' ', at)) {
    const std::size_t open = inside.find("=\"", at);
    if (open == std::string::npos || inside.find(' ', at) < open)
      return "an attribute without a quoted value: " + inside.substr(at);
    const std::size_t close = inside.find('"', open + 2);
    if (close == std::string::npos) return "an open quote: " + inside.substr(at);
    at = close + 1;
  }
  return "";
}

inline std::string character_fault(const std::string& text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (static_cast<unsigned char>(text[i]) < 0x20 && text[i] != '\n') return "a control character";
    if (text[i] != '&') continue;
    if (!starts(text, i, "&amp;") && !starts(text, i, "&lt;") && !starts(text, i, "&gt;") && !starts(text, i, "&quot;"))
      return "a bare & : " + text.substr(i, 20);
  }
  return "";
}

// Why `text` is not well-formed, or "": one root, balanced tags, quoted attributes, no bare & < or control character.
inline std::string xml_fault(const std::string& text) {
  if (const std::string fault = character_fault(text); !fault.empty()) return fault;
  std::vector<std::string> open;
  std::size_t roots = 0, at = text.find("?>");
  if (!starts(text, 0, "<?xml ") || at == std::string::npos) return "no XML declaration";
  while ((at = text.find('<', at)) != std::string::npos) {
    const std::size_t end = text.find_first_of("<>", at + 1);
    if (end == std::string::npos || text[end] == '<') return "a bare <";
    std::string tag = text.substr(at + 1, end - at - 1);
    at = end;
    if (tag[0] == '/') {
      if (open.empty() || open.back() != tag.substr(1)) return "unexpected <" + tag + ">";
      open.pop_back();
      continue;
    }
    roots += open.empty();
    const std::string name = tag.substr(0, tag.find_first_of(" /"));
    if (tag.back() == '/') {
      tag.pop_back();
    } else {
      open.push_back(name);
    }
    if (const std::string fault = attributes_fault(tag.substr(name.size())); !fault.empty()) return fault;
  }
  return !open.empty() ? "unclosed " + open.back() : roots != 1 ? "not one root" : "";
}

// Where "nan" or "inf" stands that is no part of a word, with what is around it; "" if nowhere.
inline std::string odd_number(const std::string& text) {
  for (const char* number : {"nan", "inf"})
    for (std::size_t at = 1; (at = text.find(number, at)) != std::string::npos; ++at)
      if (!std::isalpha(static_cast<unsigned char>(text[at - 1])) && !std::isalpha(static_cast<unsigned char>(text[at + 3])))
        return text.substr(at < 20 ? 0 : at - 20, 40);
  return "";
}

}  // namespace moe
