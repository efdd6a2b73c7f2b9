// Numbers as text, in the C locale, whatever the user's.
#pragma once

#include <charconv>
#include <string>

namespace moe {

// The shortest text that reads back as the same number; 3e-4 rather than 3e-04.
template <class T>
std::string number_text(T value) {
  char text[64];
  std::string shortest(text, std::to_chars(text, text + sizeof text, value).ptr);
  const std::size_t zero = shortest.find("e-0");
  return zero == std::string::npos ? shortest : shortest.erase(zero + 2, 1);
}

}  // namespace moe
