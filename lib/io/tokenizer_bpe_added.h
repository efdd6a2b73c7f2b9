// Finds added tokens in a text: the leftmost, and of those that begin there the longest. Not here: what lies between.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

#include "lib/io/tokenizer.h"

namespace moe {

class AddedTokens {
 public:
  void add(const std::string& text, std::int32_t id) {
    tokens_.push_back({text, id});
    std::sort(tokens_.begin(), tokens_.end(), [](const Entry& a, const Entry& b) { return a.text < b.text; });
    begins_[static_cast<unsigned char>(text[0])] = true;
    longest_ = std::max(longest_, text.size());
  }
  std::size_t longest() const { return longest_; }

  // piece(part, id) for each added token in the text, and piece(part, -1) for what lies before, between and after them.
  template <class Piece>
  void split(std::string_view text, Piece piece) const {
    std::size_t begin = 0;
    for (std::size_t i = 0; longest_ > 0 && i < text.size();) {
      const Entry* token = begins_[static_cast<unsigned char>(text[i])] ? longest_at(text.substr(i)) : nullptr;
      if (!token) {
        ++i;
        continue;
      }
      if (i > begin) piece(text.substr(begin, i - begin), -1);
      piece(text.substr(i, token->text.size()), token->id);
      begin = i += token->text.size();
    }
    if (begin < text.size()) piece(text.substr(begin), -1);
  }

 private:
  struct Entry {
    std::string text;
    std::int32_t id;
  };

  // Narrows the sorted tokens to those that agree with the text in one byte more; a token that ends there is first of them.
  const Entry* longest_at(std::string_view text) const {
    const Entry* found = nullptr;
    auto first = tokens_.begin(), last = tokens_.end();
    for (std::size_t depth = 0; first != last; ++depth) {
      if (first->text.size() == depth) found = &*first++;
      if (depth == text.size()) break;
      const auto byte = static_cast<unsigned char>(text[depth]);
      const auto at = [depth](const Entry& e) { return static_cast<unsigned char>(e.text[depth]); };
      first = std::partition_point(first, last, [&](const Entry& e) { return at(e) < byte; });
      last = std::partition_point(first, last, [&](const Entry& e) { return at(e) <= byte; });
    }
    return found;
  }

  std::vector<Entry> tokens_;  // by text
  std::array<bool, 256> begins_{};
  std::size_t longest_ = 0;
};

}  // namespace moe
