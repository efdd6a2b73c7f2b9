// UTF-8, byte by byte. Not here: what characters mean (lib/io/tokenizer_bpe_nfc.h, lib/io/tokenizer_bpe_regex.h).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace moe {

// Bytes of the character that starts at text[i], 1 to 4; 0 if it is broken: cut, overlong, a surrogate, beyond U+10FFFF.
std::size_t utf8_length(std::string_view text, std::size_t i);
// The first byte from `i` on that is not part of a character; text.size() if there is none.
std::size_t utf8_end(std::string_view text, std::size_t i);
// The character that starts at text[i], where utf8_length() is not 0.
char32_t utf8_character(std::string_view text, std::size_t i);
void append_utf8(std::string& text, char32_t c);
// The same text with U+FFFD for each byte that is not part of a character.
std::string mended_utf8(std::string_view text);

}  // namespace moe
