#include "lib/io/tokenizer_bpe_regex.h"

#include <cstdint>

#include "lib/base/error.h"
#ifdef MOE_HAVE_PCRE2
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#endif

namespace moe {

#ifdef MOE_HAVE_PCRE2

namespace {

constexpr std::size_t kStackStartBytes = 32 << 10, kStackMostBytes = 64 << 20;

std::string message_of(int code) {
  PCRE2_UCHAR text[200] = {};
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

}  // namespace

struct Regex::Scratch::Impl {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(kStackStartBytes, kStackMostBytes, nullptr);
  Impl() {
    if (!data || !context || !stack) throw std::bad_alloc();
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~Impl() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

struct Regex::Impl {
  std::string where;
  pcre2_code* code = nullptr;
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(const std::string& pattern, const std::string& where) : impl_(std::make_unique<Impl>()) {
  impl_->where = where;
  int error = 0;
  std::size_t offset = 0;
  impl_->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (!impl_->code)
    throw Error(Exit::kBadInput,
                where + ": expected a regular expression, found '" + pattern.substr(0, 80) + "': " + message_of(error));
  std::uint32_t matches_empty = 0;
  pcre2_pattern_info(impl_->code, PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty)
    throw Error(Exit::kBadInput, where + ": expected a regular expression that matches at least one character, found '" +
                                     pattern.substr(0, 80) + "'");
  pcre2_jit_compile(impl_->code, PCRE2_JIT_COMPLETE | PCRE2_JIT_PARTIAL_HARD);  // without it: the same, slower
}

Regex::Found Regex::find(Scratch& scratch, std::string_view text, std::size_t from, Match& match, bool goes_on) const {
  Scratch::Impl& s = *scratch.impl_;
  const int rc = pcre2_match(impl_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                             PCRE2_NO_UTF_CHECK | (goes_on ? PCRE2_PARTIAL_HARD : 0), s.data, s.context);
  if (rc == PCRE2_ERROR_NOMATCH) return Found::kNone;
  if (rc < 0 && rc != PCRE2_ERROR_PARTIAL)
    throw Error(Exit::kBadInput, impl_->where + ": the regular expression cannot match the text: " + message_of(rc));
  const std::size_t* offsets = pcre2_get_ovector_pointer(s.data);
  match = {offsets[0], offsets[1]};
  return rc == PCRE2_ERROR_PARTIAL ? Found::kNeedsMore : Found::kMatch;
}

#else

struct Regex::Scratch::Impl {};
struct Regex::Impl {};
Regex::Regex(const std::string&, const std::string& where) {
  throw Error(Exit::kUnavailable, where + ": expected a build with libpcre2, found one without",
              "install libpcre2-dev and build again, or use --tokenizer bytes");
}
Regex::Found Regex::find(Scratch&, std::string_view, std::size_t, Match&, bool) const { return Found::kNone; }

#endif

Regex::Scratch::Scratch() : impl_(std::make_unique<Impl>()) {}
Regex::Scratch::~Scratch() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex::~Regex() = default;

}  // namespace moe
