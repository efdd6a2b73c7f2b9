#include "lib/io/tokenizer_bpe_nfc.h"

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "lib/base/error.h"
#ifdef MOE_HAVE_UTF8PROC
#include <utf8proc.h>
#endif

namespace moe {

void require_nfc(const std::string& where) {
#ifdef MOE_HAVE_UTF8PROC
  (void)where;
#else
  throw Error(Exit::kUnavailable, where + ": expected a build with utf8proc for the normalizer NFC, found one without",
              "install libutf8proc-dev and build again");
#endif
}

std::string nfc_of(std::string_view text) {
#ifdef MOE_HAVE_UTF8PROC
  if (std::none_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) >= 0x80; }))
    return std::string(text);
  utf8proc_uint8_t* out = nullptr;
  const auto options = static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE);
  const utf8proc_ssize_t n = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                          static_cast<utf8proc_ssize_t>(text.size()), &out, options);
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owned(out, std::free);
  if (n < 0) throw Error(Exit::kInternal, std::string("utf8proc: ") + utf8proc_errmsg(n));
  return {reinterpret_cast<const char*>(out), static_cast<std::size_t>(n)};
#else
  return std::string(text);
#endif
}

}  // namespace moe
