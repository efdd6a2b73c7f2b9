#include "lib/io/tokenizer_bpe.h"

#include <algorithm>
#include <deque>
#include <mutex>

#include "lib/base/utf8.h"
#include "lib/io/tokenizer_bpe_added.h"
#include "lib/io/tokenizer_bpe_merge.h"
#include "lib/io/tokenizer_bpe_nfc.h"
#include "lib/io/tokenizer_bpe_pattern.h"
#include "lib/io/tokenizer_bpe_regex.h"

namespace moe {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

// What one call of encode() works with.
struct Scratch {
  Regex::Scratch regex;
  BpeMerger::Scratch merger;
};

// Lends a Scratch to each thread that asks; they are kept with their caches.
class ScratchPool {
 public:
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool), scratch_(pool.take()) {}
    ~Lease() { pool_.give_back(std::move(scratch_)); }
    Lease(const Lease&) = delete;
    Scratch& operator*() { return *scratch_; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

 private:
  std::unique_ptr<Scratch> take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }
  void give_back(std::unique_ptr<Scratch> scratch) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }
  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
};

// run(part, is_utf8) for the parts of the text that are UTF-8 and those that are not, as long as they come.
template <class Run>
void split_utf8(std::string_view text, Run run) {
  for (std::size_t begin = 0; begin < text.size();) {
    std::size_t end = utf8_end(text, begin);
    const bool is_utf8 = end > begin;
    if (!is_utf8)
      while (end < text.size() && utf8_length(text, end) == 0) ++end;
    run(text.substr(begin, end - begin), is_utf8);
    begin = end;
  }
}

// Bytes at the end that may be the beginning of a character.
std::size_t bytes_of_cut_character(std::string_view text) {
  for (std::size_t n = 1; n <= 3 && n <= text.size(); ++n) {
    const auto byte = static_cast<unsigned char>(text[text.size() - n]);
    if (byte >= 0xC0) return utf8_length(text, text.size() - n) == 0 ? n : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
}

class BpeTokenizer : public Tokenizer {
 public:
  BpeTokenizer(std::string name, std::string json)
      : name_(std::move(name)), json_(std::move(json)), spec_(parse_bpe(json_, name_)), merger_(spec_) {
    if (spec_.nfc) require_nfc(name_);
    for (std::size_t i = 0; i < spec_.patterns.size(); ++i) {
      const std::string where = name_ + ": pre_tokenizer, split " + std::to_string(i + 1);
      splits_.emplace_back(pcre2_of_oniguruma(spec_.patterns[i], where), where);
    }
    for (const AddedToken& t : spec_.added) t.normalized ? in_normal_.add(normal(t.text), t.id) : in_raw_.add(t.text, t.id);
  }

  int vocab_size() const override { return static_cast<int>(spec_.piece_V.size()); }
  std::string name() const override { return name_; }
  std::string serialized() const override { return json_; }
  std::vector<AddedToken> added_tokens() const override { return spec_.added; }
  std::vector<std::int32_t> begin_ids() const override { return spec_.begin_ids; }
  std::vector<std::int32_t> end_ids() const override { return spec_.end_ids; }

  std::vector<std::int32_t> encode(std::string_view text) const override {
    ScratchPool::Lease lease(pool_);
    Scratch& scratch = *lease;
    std::vector<std::int32_t> ids;
    ids.reserve(text.size() / 3);
    const auto word = [&](std::string_view bytes) { merger_.encode(bytes, scratch.merger, ids); };
    for_each_run(text, [&](std::string_view run, std::int32_t id, bool is_utf8) {
      if (id >= 0) return ids.push_back(id);
      if (!is_utf8) return word(run);
      const std::string normalized = spec_.nfc ? nfc_of(run) : "";
      in_normal_.split(spec_.nfc ? normalized : run, [&](std::string_view piece, std::int32_t added) {
        added >= 0 ? ids.push_back(added) : split(piece, 0, scratch.regex, word);
      });
    });
    return ids;
  }

  std::string decode(std::span<const std::int32_t> ids) const override {
    std::string text;
    for (const std::int32_t id : ids) {
      const bool known = id >= 0 && id < vocab_size() && !spec_.piece_V[static_cast<std::size_t>(id)].empty();
      text += known ? spec_.piece_V[static_cast<std::size_t>(id)] : kReplacement;
    }
    return text;
  }

  std::string normalized(std::string_view text) const override {
    if (!spec_.nfc) return std::string(text);
    std::string out;
    for_each_run(text, [&](std::string_view run, std::int32_t id, bool is_utf8) {
      out += id < 0 && is_utf8 ? nfc_of(run) : std::string(run);
    });
    return out;
  }

  std::vector<std::size_t> cuts(std::string_view text, std::size_t stride) const override;

 private:
  std::string normal(const std::string& text) const { return spec_.nfc ? nfc_of(text) : text; }

  // run(part, id of an added token that is looked for in the raw text or -1, is UTF-8)
  template <class Run>
  void for_each_run(std::string_view text, Run run) const {
    in_raw_.split(text, [&](std::string_view piece, std::int32_t id) {
      if (id >= 0) return run(piece, id, true);
      split_utf8(piece, [&](std::string_view part, bool is_utf8) { run(part, -1, is_utf8); });
    });
  }

  // word(part) for each part that the expressions from number `stage` on leave: matches and what lies between them.
  template <class Word>
  void split(std::string_view piece, std::size_t stage, Regex::Scratch& scratch, const Word& word) const {
    if (stage == splits_.size()) return word(piece);
    std::size_t at = 0;
    for (Regex::Match m{}; at < piece.size() && splits_[stage].find(scratch, piece, at, m) == Regex::Found::kMatch;
         at = m.end) {
      if (m.begin > at) split(piece.substr(at, m.begin - at), stage + 1, scratch, word);
      split(piece.substr(m.begin, m.end - m.begin), stage + 1, scratch, word);
    }
    if (at < piece.size()) split(piece.substr(at), stage + 1, scratch, word);
  }

  // cut(end) for the ends of text in a piece that may go on, from where a fresh start would go on as the whole: the ends of
  // matches that did not see the end of the piece, and such places in what lies between matches. No expression looks back.
  template <class Cut>
  void cuts_in(std::string_view piece, std::size_t stage, Regex::Scratch& scratch, const Cut& cut) const {
    for (std::size_t at = 0; at < piece.size();) {
      Regex::Match m{piece.size(), piece.size()};
      const bool found = splits_[stage].find(scratch, piece, at, m, true) == Regex::Found::kMatch;
      if (stage + 1 < splits_.size() && m.begin > at) cuts_in(piece.substr(at, m.begin - at), stage + 1, scratch, cut);
      if (!found) return;
      cut(piece.data() + (at = m.end));
    }
  }

  // Whether text[begin, end) becomes the same ids when the text ends there: a look ahead, or a greedy match, may be told
  // apart. Seen from a few candidates before, with kCutContext bytes of what follows.
  bool ends_alike(std::string_view text, std::size_t begin, std::size_t end) const {
    const auto cut = encode(text.substr(begin, end - begin)), whole = encode(text.substr(begin, end - begin + kCutContext));
    return cut.size() <= whole.size() && std::equal(cut.begin(), cut.end(), whole.begin());
  }

  static constexpr std::size_t kCutStarts = 8, kCutContext = 512;
  std::string name_, json_;
  BpeSpec spec_;
  BpeMerger merger_;
  std::vector<Regex> splits_;
  AddedTokens in_raw_, in_normal_;
  mutable ScratchPool pool_;
};

// With NFC only after a line feed, which composes with nothing, is made of nothing else, and so is the same one before and
// after normalization. Not where an added token might begin that is not all there.
std::vector<std::size_t> BpeTokenizer::cuts(std::string_view text, std::size_t stride) const {
  std::vector<std::size_t> places;
  text.remove_suffix(bytes_of_cut_character(text));
  const std::size_t margin = std::max(in_raw_.longest(), 3 * in_normal_.longest());  // NFC: at most 3 times as long
  if (splits_.empty() || text.size() <= margin) return places;
  const std::size_t limit = text.size() - margin;
  std::deque<std::size_t> starts = {0};  // some of the last candidates
  const auto cut = [&](std::size_t place) {
    const bool is_far = place >= (places.empty() ? 0 : places.back()) + stride;
    if (is_far && place <= limit && ends_alike(text, starts.front(), place)) places.push_back(place);
    starts.push_back(place);
    if (starts.size() > kCutStarts) starts.pop_front();
  };
  ScratchPool::Lease lease(pool_);
  for_each_run(text, [&](std::string_view run, std::int32_t id, bool is_utf8) {
    const auto begin = static_cast<std::size_t>(run.data() - text.data());
    if (begin > 0) cut(begin);
    if (id >= 0 || !is_utf8) return;
    const std::string normalized = spec_.nfc ? nfc_of(run) : "";
    const std::string_view normal = spec_.nfc ? normalized : run;
    std::size_t counted = 0, raw = 0;  // so far in the normal text; the same place in the raw one, after a line feed
    in_normal_.split(normal, [&](std::string_view piece, std::int32_t added) {
      if (added >= 0) return;
      cuts_in(piece, 0, (*lease).regex, [&](const char* place) {
        const auto end = static_cast<std::size_t>(place - normal.data());
        if (!spec_.nfc) return cut(begin + end);
        if (normal[end - 1] != '\n') return;
        for (; counted < end; ++counted)
          if (normal[counted] == '\n') raw = run.find('\n', raw) + 1;
        cut(begin + raw);
      });
    });
  });
  return places;
}

}  // namespace

std::unique_ptr<Tokenizer> make_bpe_tokenizer(const std::string& name, const std::string& json) {
  return std::make_unique<BpeTokenizer>(name, json);
}

}  // namespace moe
