// Regular expressions over UTF-8: the only door to PCRE2 (compiled to machine code where it can). Without it every Regex is
// Error 69. Not here: the language of the patterns in tokenizer.json (tokenizer_bpe_pattern.h).
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace moe {

class Regex {
 public:
  // What one thread needs to match; for any number of expressions.
  class Scratch {
   public:
    Scratch();
    ~Scratch();

   private:
    friend class Regex;
    struct Impl;
    std::unique_ptr<Impl> impl_;
  };
  struct Match {
    std::size_t begin, end;
  };
  enum class Found { kNone, kMatch, kNeedsMore };  // more text might make a match of what begins there

  // A PCRE2 pattern. Error 65 with `where` if it is none or matches nothing at all ("").
  Regex(const std::string& pattern, const std::string& where);
  Regex(Regex&&) noexcept;
  ~Regex();
  // The first match from text[from] on. text is UTF-8 (not looked at) and complete, or, if `goes_on`, only a beginning.
  // Error 65 where the pattern takes too much on this text.
  Found find(Scratch& scratch, std::string_view text, std::size_t from, Match& match, bool goes_on = false) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace moe
