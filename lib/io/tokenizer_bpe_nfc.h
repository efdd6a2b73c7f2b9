// Unicode's normal form C: the only door to utf8proc. Not here: other normal forms.
#pragma once

#include <string>
#include <string_view>

namespace moe {

// Error 69 naming `where` in a build without utf8proc.
void require_nfc(const std::string& where);
// Of UTF-8 (not looked at).
std::string nfc_of(std::string_view text);

}  // namespace moe
